import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import type { Client, QueryResult } from "pg";
import { detectPooler } from "./pooler.ts";

/** Listens for NOTIFY while the server supports it. */
export interface Listener {
  /** Whether notifications arrive now. */
  readonly hears: boolean;
  /** Resolves when it is known whether notifications arrive. */
  readonly known: Promise<void>;
  close(): Promise<void>;
}

export interface Listening {
  /** A handler for each channel. */
  channels: Record<string, (payload: string) => void>;
  /** Called when notifications begin to arrive, and, with the reason, when they stop or cannot arrive. */
  onChange?: (hears: boolean, reason?: string) => void;
}

export interface ListenerSetting extends Listening {
  /** Opens a connection that may listen. */
  connect: () => Promise<Client>;
  /** Sends a notification on another connection. */
  notify: (channel: string) => Promise<unknown>;
}

const pause = { answer: 10_000, ask: 10_000, first: 100, longest: 5000, unheard: 60_000, useless: 600_000 }; // milliseconds

/** Starts to listen, and reconnects until it is closed. */
export function openListener({ channels, onChange, connect, notify }: ListenerSetting): Listener {
  const closing = new AbortController();
  const { signal } = closing;
  let client: Client | undefined;
  let hears: boolean | undefined;
  let resolveKnown = () => {};
  const known = new Promise<void>((resolve) => {
    resolveKnown = resolve;
  });

  function change(now: boolean, reason?: string) {
    if (hears !== now && !signal.aborted) onChange?.(now, reason);
    hears = now;
    resolveKnown();
  }

  /** Listens until the connection is lost; returns the pause before the next try. */
  async function listen(): Promise<number> {
    client = await connect();
    // A LISTEN through such a pooler would stay on a server connection that others use.
    const poolerMode = await detectPooler(client, connect);
    if (poolerMode === "transaction" || poolerMode === "statement") {
      change(false, `the connection goes through a pooler in ${poolerMode} mode, which does not support LISTEN`);
      return pause.useless;
    }
    if (signal.aborted) return 0;
    const ended = once(client, "end").then(
      () => "the connection was lost",
      (error: Error) => error.message,
    );
    const probe = `notika_probe_${randomUUID()}`;
    const heard = new Promise<true>((resolve) => {
      client?.on("notification", ({ channel, payload }) => {
        if (channel === probe) resolve(true);
        else channels[channel]?.(payload ?? "");
      });
    });
    const listens = [...Object.keys(channels), probe].map((channel) => `listen "${channel}";`);
    const place = await backendOf(client, listens.join(" "));
    await notify(probe);
    if (!(await Promise.race([heard, ended.then(() => false), sleep(pause.answer, false, { ref: false })]))) {
      await retract(client, place);
      change(false, "a notification did not arrive");
      return pause.unheard;
    }
    await client.query(`unlisten "${probe}"`);
    change(true);
    // A connection that hangs reports nothing, so it is queried.
    const silent = new AbortController();
    const asked = askNowAndThen(client, silent.signal).catch((error: Error) => error.message);
    change(false, await Promise.race([ended, asked]));
    silent.abort();
    return 0;
  }

  async function keepListening() {
    for (let wait = pause.first; !signal.aborted; ) {
      try {
        wait = (await listen()) || pause.first;
      } catch (error) {
        change(false, (error as Error).message);
        wait = Math.min(wait * 2, pause.longest);
      }
      await client?.end().catch(() => {});
      client = undefined;
      await sleep(wait, undefined, { signal, ref: false }).catch(() => {});
    }
  }

  const kept = keepListening();
  return {
    get hears() {
      return hears === true;
    },
    known,
    async close() {
      closing.abort();
      resolveKnown();
      await client?.end().catch(() => {});
      await kept;
    },
  };
}

/** Runs statements in one message, and returns the pid of the backend that ran them. */
async function backendOf(client: Client, statements: string): Promise<number> {
  const results = (await client.query(`${statements} select pg_backend_pid() as pid`)) as unknown as QueryResult[];
  return results.at(-1)?.rows[0].pid;
}

/** Undoes a LISTEN on the backend that has it: behind a pooler that was not detected, another client may use it next. */
async function retract(client: Client, place: number) {
  for (let tries = 0; tries < 100; tries++) {
    if ((await backendOf(client, "unlisten *;")) === place) return;
    await sleep(10);
  }
}

/** Fails when the database stops answering. */
async function askNowAndThen(client: Client, signal: AbortSignal): Promise<never> {
  for (;;) {
    await sleep(pause.ask, undefined, { signal, ref: false });
    await client.query("select 1");
  }
}
