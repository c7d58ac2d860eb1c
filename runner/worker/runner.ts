import { hostname } from "node:os";
import sql from "sql-template-tag";
import { makeTask, type RunObserver } from "../attempt/attempt.ts";
import { hear, now } from "../attempt/liveness.ts";
import { openBegin, openOutcomes } from "../attempt/outcomes.ts";
import { openMemory } from "../attempt/store.ts";
import { catchStrays } from "../attempt/unhandled.ts";
import { namedDatabase } from "../connection/settings.ts";
import { type Database, openDatabase } from "../database/database.ts";
import { untilReady } from "../database/ready.ts";
import { atOnce } from "../database/statements.ts";
import { NotikaError } from "../errors.ts";
import { differenceTo } from "../install/version.ts";
import { type Log, textLog } from "../log.ts";
import { type Tasks, toTasks } from "../workflow/load.ts";
import { type Source, sourcesOf } from "../workflow/waits.ts";
import { beatOf } from "./beat.ts";
import { startDispatcher } from "./dispatcher.ts";
import { atMostEvery, openHeartbeat } from "./heartbeat.ts";
import { startWorker } from "./supervisor.ts";
import { openPulse } from "./watchdog.ts";

/** Runs workflows until it is stopped. */
export interface Runner {
  /** Stops: what runs may finish for so many milliseconds (default 10,000), then it is aborted and given to others. */
  stop(deadline?: number): Promise<void>;
}

export interface RunnerOptions {
  /** Default: the environment's DATABASE_URL, or what its PGHOST, PGDATABASE or PGSERVICE say. */
  url?: string;
  /** The same database past a transaction-mode pooler, to LISTEN there; default: the environment's NOTIKA_DIRECT_URL. */
  directUrl?: string | undefined;
  /** The folder of the task modules, or what they export, by name. */
  tasks: string | Record<string, unknown>;
  /** How many runs at a time; default 10. */
  concurrency?: number;
  log?: Log;
  /** Ends the wait for a database that says that it will be there soon. */
  signal?: AbortSignal;
}

/** Starts a runner for the database at `url`.  Any number of them may run side by side. */
export async function createRunner({ url, directUrl, tasks, signal, ...options }: RunnerOptions): Promise<Runner> {
  const connect = namedDatabase(url);
  if (connect === undefined) {
    throw new NotikaError("NOTIKA_NO_DATABASE", "no database was named", {
      hint: "Give createRunner a url, or set DATABASE_URL.",
    });
  }
  const loaded = await toTasks(tasks);
  if (Object.keys(loaded).length === 0) {
    throw new NotikaError("NOTIKA_TASKS", "there is no task to run", {
      hint:
        typeof tasks === "string"
          ? `Put one into ${tasks}, such as ${tasks}/welcome_email.ts.`
          : "Give createRunner tasks.",
    });
  }
  const direct = directUrl ?? (process.env.NOTIKA_DIRECT_URL || undefined);
  const database = openDatabase({ connect, direct, connections: (options.concurrency ?? 10) + 2 });
  try {
    await untilReady(database, options.log ?? textLog, signal);
    const runner = await startRunner({ database, tasks: loaded, ...options });
    await warnOfUnpublished(database, loaded, options.log ?? textLog).catch(async (error) => {
      await runner.stop(0);
      throw error;
    });
    return { stop: (deadline) => runner.stop(deadline).finally(() => database.close()) };
  } catch (error) {
    await database.close();
    throw error;
  }
}

/** Starts a runner on an open database, which stays open. */
export async function startRunner({
  database,
  tasks,
  concurrency = 10,
  log = textLog,
  observe = logRuns(log),
}: {
  database: Database;
  tasks: Tasks;
  concurrency?: number;
  log?: Log;
  observe?: RunObserver;
}): Promise<Runner> {
  await checkVersion(database);
  const installation = await nameInstallation(database);

  const names = Object.keys(tasks);
  const endStrays = catchStrays();
  const pulse = openPulse({ address: database.address, tasks: names, log });
  const { cells } = pulse;
  const begin = openBegin(database);
  const finish = openOutcomes(database);
  const memory = openMemory(database);
  const worker = startWorker({
    database,
    concurrency,
    log,
    tasks: Object.fromEntries(
      Object.entries(tasks).map(([name, task]) => [
        name,
        makeTask(task, { installation, database, memory, begin, finish, cells, log, observe }),
      ]),
    ),
    onStart: () => heartbeat.beat(),
    onIds: pulse.follow,
  });
  const listener = database.listen({
    channels: {
      notika: () => dispatcher.wake(),
      "jobs:insert": (payload) => worker.nudge(jobsIn(payload)), // by graphile-worker's add_job, wherever it is called
    },
    onChange(hears, reason) {
      if (hears) log.info("new events are notified");
      else log.warn("new events are found by polling", { reason });
    },
  });
  const dispatcher = startDispatcher({ database, log, hears: () => listener.hears, onDispatch: worker.nudge });
  const { execute } = database.within(60_000);
  const heartbeat = openHeartbeat(async () => {
    const sentAt = now();
    await worker.beat((id) => beatOf(database.within(10_000), { id, host: hostname(), tasks: names }));
    hear(cells, sentAt);
    const done = await execute<{ did: string }>(atOnce("select notika.maintain() as did"));
    for (const { did } of done) log.info(did);
    await check();
  }, log);
  const check = atMostEvery(60_000, async () => {
    const found = await execute<{ detail: string }>(
      atOnce("select finding, workflow, detail, remedy from notika.check() where severity = 'error'"),
    );
    for (const { detail, ...fields } of found) log.error(detail, fields);
  });

  return {
    async stop(deadline = 10_000) {
      await Promise.all([listener.close(), dispatcher.stop(), worker.stop(deadline)]);
      heartbeat.stop();
      pulse.close();
      endStrays();
    },
  };
}

/** How many jobs a notification speaks of; anybody may send one that says nothing. */
function jobsIn(payload: string): number {
  return Number(/"count"\s*:\s*(\d+)/.exec(payload)?.[1] ?? 1);
}

async function checkVersion({ execute }: Database) {
  const unlessMissing = (error: { code?: string }) => {
    if (error.code === "3F000" || error.code === "42883") return [];
    throw error;
  };
  const [installed] = await execute<{ version: string }>(sql`select notika.version()`).catch(unlessMissing);
  if (!installed) {
    throw new NotikaError("NOTIKA_VERSION", "notika is not installed in this database", {
      hint: "Run: npx notika install",
    });
  }
  const [had] = await execute<{ names: string[] }>(sql`select notika._migrations() as names`).catch(unlessMissing);
  const difference = await differenceTo({ ...installed, migrations: had?.names ?? null });
  if (difference) throw new NotikaError("NOTIKA_VERSION", difference.message, { hint: `Run: ${difference.remedy}` });
}

/** The name of the installation in this database; in a copy it is a new one from here on. */
export async function nameInstallation({ execute }: Database): Promise<string> {
  const [row] = await execute<{ installation: string }>(atOnce("select notika._installation() as installation"));
  return row?.installation ?? "";
}

async function warnOfUnpublished(database: Database, tasks: Tasks, log: Log) {
  const published = await database.execute<Published>(
    sql`select workflow, table_name, operations, columns, watch, condition, match from notika.workflows`,
  );
  const found = new Map(published.map((row) => [row.workflow, row]));
  for (const [name, workflow] of Object.entries(tasks)) {
    if (!found.has(name)) {
      const { on, schedule } = workflow;
      const hint =
        on || schedule ? `npx notika publish ${name}` : `npx notika publish ${name} --table <schema>.<table>`;
      log.warn(`task ${name} is not published, so nothing wakes it`, { hint });
      continue;
    }
    const hint = `npx notika publish ${name}`;
    for (const [source, declared] of Object.entries(sourcesOf(workflow))) {
      const own = found.get(`${name}:${source}`);
      if (!own) log.warn(`${name}:${source} is not published, so no change ends what waits for it`, { hint });
      else if (!isAsDeclared(own, declared)) {
        log.warn(`${name}:${source} is published differently from what the task declares`, { hint });
      }
    }
  }
}

interface Published {
  workflow: string;
  table_name: string | null;
  operations: string[];
  columns: string[] | null;
  watch: string[] | null;
  condition: string | null;
  match: string[] | null;
}

function isAsDeclared(published: Published, { table, operations = ["insert"], condition, ...declared }: Source) {
  const plain = (name: string | null) => name?.replaceAll('"', "").toLowerCase();
  const set = (names: readonly string[] | null | undefined) => JSON.stringify([...new Set(names ?? [])].sort());
  return (
    plain(published.table_name) === plain(table) &&
    set(published.operations) === set(operations) &&
    (published.condition ?? "") === (condition ?? "").trim() &&
    (["columns", "watch", "match"] as const).every((part) => set(published[part]) === set(declared[part]))
  );
}

function logRuns(log: Log): RunObserver {
  return (event, { ms, attempt, error, last }) => {
    const fields = { workflow: event.workflow, run: event.id, ms, attempt };
    if (!error) log.info("done", fields);
    else if (last) log.error("failed", { ...fields, error: error.message });
    else log.warn("failed, will be tried again", { ...fields, error: error.message });
  };
}
