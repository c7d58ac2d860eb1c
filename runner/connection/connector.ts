import type { Duplex } from "node:stream";
import { connectError } from "./errors.ts";
import type { Fault } from "./fault.ts";
import { LateStream } from "./late_stream.ts";
import { findWay, goWay, type Way } from "./route.ts";
import { readSettings, type Settings } from "./settings.ts";

/** Gives connections to one database to any driver, as libpq would open them. */
export interface Connector {
  settings: Settings;
  /** A connection that nobody has logged in on; it may be written to at once. */
  connect(): Duplex;
  /** The password for where the connections lead. */
  password(): string;
}

/** A connector for a connection string; an empty one means what the environment says. */
export function openConnector(text: string): Connector {
  const settings = readSettings(text);
  // A server that may change its role has to be asked each time.
  const mayRemember = settings.session === "any";
  let good: Way | undefined;
  let latest: Way | undefined;
  let searching: Promise<Way> | undefined;

  /** Logs in once, because only then it is known which server takes us, and whether with TLS. */
  async function search(): Promise<Way> {
    const { way, client } = await findWay(settings);
    await client.end();
    latest = way;
    if (mayRemember) good = way;
    return way;
  }

  async function open(): Promise<Duplex> {
    const socket = good && (await goWay(good, settings).catch(() => undefined));
    if (socket) return socket;
    good = undefined;

    searching ??= search().finally(() => {
      searching = undefined;
    });
    const way = await searching;
    return goWay(way, settings).catch((error: Fault) => {
      throw connectError([{ ...way.address, error }], settings);
    });
  }

  return {
    settings,
    connect: () => new LateStream(open, settings.timeout),
    password: () => (latest?.address.place ?? settings.places[0])?.password() ?? "",
  };
}
