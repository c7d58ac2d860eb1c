import type { Duplex } from "node:stream";
import { connectError, type HostError } from "./errors.ts";
import { LateStream } from "./late_stream.ts";
import { findRoute, openRoute, type Route } from "./route.ts";
import { readSettings, type Settings } from "./settings.ts";

/** Opens connections to one database for any driver, as libpq would. */
export interface Connector {
  settings: Settings;
  /** Opens a connection without logging in; it may be written to at once. */
  connect(): Duplex;
  /** The password for the server that the connections lead to. */
  password(): string;
}

/**
 * A connector for a connection string; an empty one means libpq's environment variables.  Throws NOTIKA_URL if it is
 * invalid.
 */
export function openConnector(text: string): Connector {
  const settings = readSettings(text);
  // A server that may change between primary and standby must be tested each time.
  const mayRemember = settings.session === "any";
  let good: Route | undefined;
  let latest: Route | undefined;
  let searching: Promise<Route> | undefined;

  /** Logs in once, because only a login shows which server accepts it, and whether with TLS. */
  async function search(): Promise<Route> {
    const { route, client } = await findRoute(settings);
    await client.end();
    latest = route;
    if (mayRemember) good = route;
    return route;
  }

  async function open(): Promise<Duplex> {
    const socket = good && (await openRoute(good, settings).catch(() => undefined));
    if (socket) return socket;
    good = undefined;

    searching ??= search().finally(() => {
      searching = undefined;
    });
    const route = await searching;
    return openRoute(route, settings).catch((error: HostError) => {
      throw connectError([{ ...route.address, error }], settings);
    });
  }

  return {
    settings,
    connect: () => new LateStream(open, settings.timeout),
    password: () => (latest?.address.place ?? settings.places[0])?.password() ?? "",
  };
}
