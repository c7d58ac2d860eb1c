// What Notika relies on in graphile-worker beyond what that documents, on the version that package.json pins: an upgrade that
// changes it fails here, and says what of ours to look at.
import { EventEmitter } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { Logger, run, type WorkerEvents } from "graphile-worker";
import type { Pool } from "pg";
import sql, { raw } from "sql-template-tag";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from "vitest";
import own from "../../node_modules/graphile-worker/package.json" with { type: "json" };
import packageJson from "../../package.json" with { type: "json" };
import { type Embedded, openEmbedded } from "../../runner/embedded/embedded.ts";
import { installVersion } from "../../runner/install/bundle.ts";
import { install } from "../../runner/install/install.ts";
import { claimedBy } from "../../runner/worker/graphile.ts";

let embedded: Embedded;

beforeAll(async () => {
  embedded = await openEmbedded({ prepare: install, version: await installVersion() });
});
afterAll(() => embedded.close());

test("graphile-worker is pinned to the version that these tests hold", () => {
  expect(packageJson.dependencies["graphile-worker"]).toBe(own.version);
});

test("pg is the one that graphile-worker resolves to", () => {
  const lock = JSON.parse(readFileSync("package-lock.json", "utf8")) as { packages: Record<string, unknown> };
  const copies = Object.keys(lock.packages).filter((name) => /(^|\/)node_modules\/pg$/.test(name));

  expect(copies).toEqual(["node_modules/pg"]);
});

describe("a start of graphile-worker", () => {
  /** In the order in which it happened. */
  let log: string[];
  let statements: { text: string; values: unknown[] }[];
  let onConnection: string[];
  let onPool: string[];
  let events: WorkerEvents;
  let stop: (() => Promise<void>) | undefined;

  beforeEach(async () => {
    log = [];
    statements = [];
    onConnection = [];
    onPool = [];
    events = new EventEmitter();
    stop = undefined;
    await embedded.database.script("delete from notika_worker._private_jobs");
  });
  afterEach(() => stop?.());

  test("takes jobs by a statement that is recognized, and by no other", async () => {
    const id = await start();
    await work(2);

    const claims = statements.filter(({ text }) => /skip locked/.test(text));
    expect(claims.length, "it takes jobs by a statement with SKIP LOCKED").toBeGreaterThan(0);
    const recognized = statements.filter((statement) => claimedBy(statement));
    expect(
      recognized,
      "worker/graphile.ts replaces that statement by notika._claim: claimedBy() has to recognize it, or jobs are taken slowly",
    ).toEqual(claims);
    expect(
      recognized.map((statement) => claimedBy(statement)),
      "notika._claim is given the runner and the ids of its tasks, which are the values of that statement",
    ).toEqual(recognized.map(() => [id, [expect.any(Number)]]));
  });

  test("has an id before it is there, by which it locks jobs", async () => {
    let early: string | undefined;
    events.on("pool:create", ({ workerPool }) => {
      early = workerPool.id;
    });
    const locks: unknown[] = [];
    await start({
      task: async () =>
        void locks.push(...(await embedded.database.execute(raw("select locked_by from notika_worker._private_jobs")))),
    });
    await work(1);

    expect(locks, "heartbeats and notika._leave name a runner by the id of pool:create").toEqual([
      { locked_by: early },
    ]);
  });

  test("awaits forbiddenFlags before each job that a worker asks for, and reports what came of it", async () => {
    let open = () => {};
    const isOpen = new Promise<void>((resolve) => {
      open = resolve;
    });
    for (const event of ["worker:getJob:start", "worker:getJob:empty", "worker:getJob:error", "job:start"] as const) {
      events.on(event, () => void log.push(event));
    }
    await start({ flags: () => isOpen.then(() => null) });
    await add(2);
    await sleep(200);
    expect(
      log,
      "worker/slots.ts keeps workers from asking for a job by a promise that forbiddenFlags returns: it must be awaited",
    ).toEqual(["flags"]);

    open();
    await until(async () => log.filter((event) => event === "job:start").length === 2, "two jobs start");
    await stop?.();

    const each = log.join(" ").match(/flags worker:getJob:start (?:job:start|worker:getJob:(?:empty|error))/g) ?? [];
    expect(
      each.join(" "),
      "a slot is taken in forbiddenFlags, once for each job that is asked for, and released by the task or by worker:getJob:*",
    ).toBe(log.join(" "));
  });

  test("connects with a callback only to listen, and asks the pool itself nothing", async () => {
    await start();
    await work(1);
    await until(async () => onConnection.length > 0, "it listens");

    expect(
      onConnection.filter((text) => !/^(un)?listen /i.test(text)),
      "worker/graphile.ts never answers connect(callback), because the runner listens itself",
    ).toEqual([]);
    expect(
      statements.filter(({ text }) => /\blisten\b/i.test(text)),
      "through a transaction-mode pooler a LISTEN would stay on a server connection of others",
    ).toEqual([]);
    expect(
      onPool.filter((text) => !text.includes("_private_known_crontabs")),
      "worker/graphile.ts answers pool.query with nothing: only its cron, which is not used, may ask it",
    ).toEqual([]);
  });

  test("is woken by nudge of the pool, and its local queue can be made to return jobs", async () => {
    let queue: unknown;
    let pool: { nudge?: unknown } = {};
    events.on("localQueue:init", ({ localQueue }) => {
      queue = localQueue;
    });
    events.on("pool:create", ({ workerPool }) => {
      pool = workerPool as never;
    });
    await start({ pollInterval: 60_000, listens: false });
    await sleep(200);
    await add(1);
    await sleep(200);
    const before = await left();
    (pool.nudge as (jobs: number) => void)(1);
    await until(async () => (await left()) === 0, "WorkerPool.nudge wakes it, which is how worker/graphile.ts does it");

    expect(before, "without a nudge it waits for its next poll").toBe(1);
    expect(queue, "worker/graphile.ts returns the jobs of a queue in mode WAITING before it is released").toMatchObject(
      {
        mode: expect.stringMatching(/^[A-Z]+$/),
        setModeTtlExpired: expect.any(Function),
      },
    );
  });

  async function start({
    task = async () => {},
    flags = async () => null,
    pollInterval = 100,
    listens = true,
  }: Setting = {}) {
    const { pool } = embedded.database;
    let id = "";
    events.on("pool:create", ({ workerPool }) => {
      id = workerPool.id;
    });
    const runner = await run({
      pgPool: recording(pool, listens),
      taskList: { work: task },
      events,
      logger: new Logger(() => () => {}),
      noHandleSignals: true,
      forbiddenFlags: () => {
        log.push("flags");
        return flags();
      },
      preset: {
        worker: {
          schema: "notika_worker",
          concurrentJobs: 1,
          localQueue: { size: 2, ttl: 1000 },
          pollInterval,
          preparedStatements: false,
          completeJobBatchDelay: 0,
          failJobBatchDelay: 0,
        },
      },
    });
    stop = async () => {
      stop = undefined;
      await Promise.race([runner.stop().catch(() => {}), sleep(2000)]);
    };
    return id;
  }

  /** Notes what is asked of the pool and its clients, and asks it. */
  function recording(pool: Pool, listens: boolean): Pool {
    const note = (into: (text: string, values: unknown[]) => void, client: object) =>
      new Proxy(client, {
        get(target, name) {
          const value = Reflect.get(target, name);
          if (name !== "query") return typeof value === "function" ? value.bind(target) : value;
          return (query: string | { text: string; values?: unknown[] }, ...rest: unknown[]) => {
            if (typeof query === "string") into(query, (rest[0] as unknown[]) ?? []);
            else into(query.text, query.values ?? []);
            return value.call(target, query, ...rest);
          };
        },
      });
    return new Proxy(pool, {
      get(_, name) {
        const value = Reflect.get(pool, name);
        if (name === "query") {
          return (query: string | { text: string }, ...rest: unknown[]) => {
            onPool.push(typeof query === "string" ? query : query.text);
            return value.call(pool, query, ...rest);
          };
        }
        if (name !== "connect") return typeof value === "function" ? value.bind(pool) : value;
        return (callback?: (error: unknown, client?: object, release?: unknown) => void) => {
          if (!callback)
            return pool.connect().then((client) => note((text, values) => statements.push({ text, values }), client));
          if (!listens) return undefined;
          return pool.connect((error, client, release) =>
            callback(error, client && note((text) => onConnection.push(text), client), release),
          );
        };
      },
    });
  }

  async function add(jobs: number) {
    for (let job = 0; job < jobs; job++) {
      await embedded.database.execute(sql`select notika_worker.add_job('work', '{}'::json)`);
    }
  }

  async function work(jobs: number) {
    await add(jobs);
    await until(async () => (await left()) === 0, "its jobs are done");
  }

  async function left() {
    const [row] = await embedded.database.execute<{ jobs: number }>(
      raw("select count(*)::int as jobs from notika_worker._private_jobs"),
    );
    return row?.jobs;
  }
});

interface Setting {
  task?: () => Promise<void>;
  flags?: () => Promise<null>;
  pollInterval?: number;
  listens?: boolean;
}

/** What our SQL writes, reads and calls, as it takes it to be. */
const assumed: Record<string, string> = {
  "_private_jobs.id": "bigint not null unique",
  "_private_jobs.job_queue_id": "integer",
  "_private_jobs.task_id": "integer not null",
  "_private_jobs.payload": "json not null",
  "_private_jobs.priority": "smallint not null",
  "_private_jobs.run_at": "timestamp with time zone not null",
  "_private_jobs.attempts": "smallint not null",
  "_private_jobs.max_attempts": "smallint not null",
  "_private_jobs.last_error": "text",
  "_private_jobs.created_at": "timestamp with time zone not null",
  "_private_jobs.updated_at": "timestamp with time zone not null",
  "_private_jobs.key": "text unique",
  "_private_jobs.locked_at": "timestamp with time zone",
  "_private_jobs.locked_by": "text",
  "_private_jobs.flags": "jsonb",
  "_private_jobs.is_available": "boolean not null generated",
  "_private_tasks.id": "integer not null unique",
  "_private_tasks.identifier": "text not null unique",
  "migrations.id": "integer not null unique",
  "migrations.breaking": "boolean not null",
  add_job:
    "(identifier text, payload json, queue_name text, run_at timestamp with time zone, max_attempts integer, job_key text, priority integer, flags text[], job_key_mode text) notika_worker._private_jobs",
  complete_jobs: "(job_ids bigint[]) SETOF notika_worker._private_jobs",
  force_unlock_workers: "(worker_ids text[]) void",
  permanently_fail_jobs: "(job_ids bigint[], error_message text) SETOF notika_worker._private_jobs",
  remove_job: "(job_key text) notika_worker._private_jobs",
  reschedule_jobs:
    "(job_ids bigint[], run_at timestamp with time zone, priority integer, attempts integer, max_attempts integer) SETOF notika_worker._private_jobs",
};

describe("its schema", () => {
  test.each(Object.entries(assumed))("has %s as our SQL takes it to be", async (name, is) => {
    const [object = "", column] = name.split(".");

    expect(await definitionOf(object, column), `notika_worker.${object} is used in ${usersOf(object).join(", ")}`).toBe(
      is,
    );
    expect(usersOf(object), `nothing of ours uses notika_worker.${object} any more`).not.toEqual([]);
  });

  test("has nothing else that our SQL uses", () => {
    const names = sources().flatMap(({ text }) => [...text.matchAll(/notika_worker\.(\w+)/g)].map(([, name]) => name));
    const known = new Set(Object.keys(assumed).map((name) => name.split(".")[0]));

    expect(
      [...new Set(names)].filter((name) => !known.has(name)),
      "to be listed above, with what it is",
    ).toEqual([]);
  });
});

async function definitionOf(object: string, column: string | undefined): Promise<string | undefined> {
  const [found] = await embedded.database.execute<{ is: string }>(
    column === undefined
      ? sql`
        select format('(%s) %s',
                      (select string_agg(concat_ws(' ', a.name, a.type::regtype), ', ' order by a.place)
                         from unnest(p.proargnames, p.proargtypes::oid[]) with ordinality as a (name, type, place)
                        where a.place <= p.pronargs),
                      pg_get_function_result(p.oid)) as is
          from pg_proc as p
         where p.pronamespace = 'notika_worker'::regnamespace and p.proname = ${object}::text`
      : sql`
        select concat_ws(' ', format_type(a.atttypid, a.atttypmod), case when a.attnotnull then 'not null' end,
                         case when a.attgenerated <> '' then 'generated' end,
                         case when exists (
                           select from pg_index as i
                            where i.indrelid = c.oid and i.indisunique and i.indpred is null
                              and i.indkey::text = a.attnum::text
                         ) then 'unique' end) as is
          from pg_class as c
          join pg_attribute as a on a.attrelid = c.oid and a.attname = ${column}::text and not a.attisdropped
         where c.relnamespace = 'notika_worker'::regnamespace and c.relname = ${object}::text`,
  );
  return found?.is;
}

/** The files of ours that name an object of graphile-worker. */
function usersOf(object: string): string[] {
  const name = new RegExp(`notika_worker\\.${object}\\b`);
  return sources().flatMap(({ file, text }) => (name.test(text) ? [file] : []));
}

function sources(): { file: string; text: string }[] {
  return ["sql", "runner"].flatMap((folder) =>
    readdirSync(folder, { recursive: true, encoding: "utf8" })
      .filter((file) => /\.(sql|ts)$/.test(file))
      .map((file) => ({ file: `${folder}/${file}`, text: readFileSync(`${folder}/${file}`, "utf8") })),
  );
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(isSo: () => Promise<boolean>, what: string) {
  for (const deadline = Date.now() + 5000; !(await isSo()); await sleep(10)) {
    if (Date.now() > deadline) throw new Error(`it takes more than 5 s until ${what}`);
  }
}
