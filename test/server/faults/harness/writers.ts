import { setTimeout as sleep } from "node:timers/promises";
import { Client } from "pg";
import { randomFrom } from "../../../support/random.ts";

/** Sessions that change items without pause, and keep an account of what became of it. */
export interface Writers {
  /** Changes whose commit was answered. */
  acknowledged: Set<string>;
  /** Changes that certainly are not in the database. */
  refused: Set<string>;
  /** What writers were told instead of that they had written. */
  failures: string[];
  /** How many transactions were begun. */
  transactions(): number;
  /** Resolves with a change that is committed after this call. */
  next(): Promise<string>;
  /** Lets them finish what they are at. */
  stop(): Promise<void>;
}

interface WritersOptions {
  /** Where each session writes to. */
  urls: string[];
  /** Transactions a second, of all sessions together. */
  rate: number;
  /** What part of the changes is undone; default 0.1. */
  undone?: number;
  seed: number;
}

const patience = 3000; // milliseconds; a connection that hangs longer is given up

export function startWriters({ urls, rate, undone: undonePart = 0.1, seed }: WritersOptions): Writers {
  const acknowledged = new Set<string>();
  const refused = new Set<string>();
  const failures: string[] = [];
  const waiting = new Set<(change: string) => void>();
  let transactions = 0;
  let stopping = false;

  async function write(url: string, number: number) {
    const random = randomFrom(seed * 1000 + number);
    // Ids of one session are its own, so that it knows what it changes.
    let lastId = number * 1_000_000_000;
    const versions = new Map<number, number>();
    let client: Client | undefined;
    let due = performance.now();

    while (!stopping) {
      due = Math.max(due + (1000 * urls.length) / rate, performance.now() - 1000);
      await sleep(Math.max(0, due - performance.now()));
      const kept: Change[] = [];
      const undone: Change[] = [];
      let isCommitting = false;
      transactions++;
      try {
        client ??= await open(url);
        await client.query("begin");
        for (let count = 1 + Math.floor(random() * 3); count > 0; count--) {
          const change = draw();
          const isUndone = random() < undonePart;
          (isUndone ? undone : kept).push(change);
          await client.query(isUndone ? `savepoint undone; ${change.sql}; rollback to undone` : change.sql);
        }
        if (random() < undonePart / 2) {
          undone.push(...kept.splice(0));
          await client.query("rollback");
        } else {
          isCommitting = true;
          const { command } = await client.query("commit");
          if (command !== "COMMIT") throw new Error("the transaction was rolled back");
        }
        for (const { name, id, version } of kept) {
          acknowledged.add(name);
          if (version === undefined) versions.delete(id);
          else versions.set(id, version);
        }
        for (const { name } of undone) refused.add(name);
        const [first] = kept;
        if (first) for (const tell of waiting) tell(first.name);
      } catch (error) {
        failures.push((error as Error).message);
        for (const { name } of undone) refused.add(name);
        for (const { name, id } of kept) {
          if (!isCommitting) refused.add(name);
          else versions.delete(id); // nobody knows which it has
        }
        client = discard(client);
        await sleep(100);
      }
    }
    await client?.end().catch(() => {});

    function draw(): Change {
      const known = [...versions.keys()];
      const id = known[Math.floor(random() * known.length)];
      const kind = random();
      if (id === undefined || kind < 0.6) {
        return change("insert", ++lastId, 1, `insert into public.item (id) values (${lastId})`);
      }
      const version = versions.get(id) as number;
      versions.delete(id); // once a transaction; what is undone is left alone from then on
      if (kind < 0.9) {
        const next = version + 1;
        return change("update", id, next, `update public.item set version = ${next} where id = ${id}`);
      }
      return change("delete", id, version, `delete from public.item where id = ${id}`);
    }
  }

  const stopped = Promise.all(urls.map((url, index) => write(url, index + 1)));
  return {
    acknowledged,
    refused,
    failures,
    transactions: () => transactions,
    next: () =>
      new Promise((resolve) => {
        const tell = (change: string) => {
          waiting.delete(tell);
          resolve(change);
        };
        waiting.add(tell);
      }),
    async stop() {
      stopping = true;
      await stopped;
    },
  };
}

interface Change {
  name: string;
  id: number;
  /** What the item has afterwards; none: it is deleted. */
  version: number | undefined;
  sql: string;
}

function change(operation: string, id: number, version: number, sql: string): Change {
  const name = `${operation}:${id}:${version}`;
  return {
    name,
    id,
    version: operation === "delete" ? undefined : version,
    sql: `${sql}; insert into public.ledger (change) values ('${name}')`,
  };
}

async function open(url: string): Promise<Client> {
  const client = new Client({ connectionString: url, query_timeout: patience, connectionTimeoutMillis: patience });
  client.on("error", () => {});
  await client.connect();
  return client;
}

/** Closes a connection that may never answer. */
function discard(client: Client | undefined): undefined {
  if (!client) return;
  const { stream } = (client as unknown as { connection: { stream: import("node:net").Socket } }).connection;
  stream.destroy();
}
