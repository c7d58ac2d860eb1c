import sql from "sql-template-tag";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";
import { attemptOf } from "../../runner/attempt/attempt.ts";
import { type Liveness, noteGap, noteHeartbeat, now, openLiveness } from "../../runner/attempt/liveness.ts";
import { openStore } from "../../runner/attempt/store.ts";
import { type Embedded, openEmbedded } from "../../runner/embedded/embedded.ts";
import { workflow } from "../../runner/index.ts";
import { installVersion } from "../../runner/install/bundle.ts";
import { install } from "../../runner/install/install.ts";
import { silentLog } from "../../runner/log.ts";

let embedded: Embedded;
let liveness: Liveness;
let taken: string[];

beforeAll(async () => {
  embedded = await openEmbedded({ prepare: install, version: await installVersion() });
  await embedded.database.script(`
    create table public.work (id bigint generated always as identity primary key);
    select notika.publish('work', 'public.work')`);
});
afterAll(() => embedded.close());
beforeEach(() => {
  liveness = openLiveness();
  taken = [];
});

test("a runner that was away takes no further step of a run that is another's by now, nor writes an outcome", async () => {
  const run = await attempt(async () => {
    noteHeartbeat(liveness, (now() + 31_000) | 0); // half a minute later
    await claim("two");
  });

  expect(run.error).toMatchObject({ message: "the run was given to another runner" });
  expect(taken).toEqual(["first"]);
  expect(await run.outcome()).toEqual([{ state: "running", attempts: 2, locked_by: "two", steps: 1 }]);
});

test("neither does one whose machine has slept, after the last step", async () => {
  const run = await attempt(undefined, async () => {
    noteGap(liveness);
    await claim("two");
  });

  expect(run.error).toMatchObject({ message: "the run was given to another runner" });
  expect(taken).toEqual(["first", "second"]);
  expect(await run.outcome()).toEqual([{ state: "running", attempts: 2, locked_by: "two", steps: 2 }]);
});

test("one whose run nobody has taken goes on", async () => {
  const run = await attempt(async () => noteGap(liveness));

  expect(run.error).toBeUndefined();
  expect(taken).toEqual(["first", "second"]);
  expect(await run.outcome()).toMatchObject([{ state: "done", attempts: 1 }]);
});

/** Runs an attempt of a new run, with something that happens between its steps, and after them. */
async function attempt(between = async () => {}, after = async () => {}) {
  const { database } = embedded;
  await database.script("delete from notika_worker._private_jobs; insert into public.work default values");
  await database.execute(sql`select notika.dispatch()`);
  const job = await claim("one");
  const definition = workflow({
    on: { table: "public.work" },
    async run({ step }) {
      await step.run("first", () => taken.push("first"));
      await between();
      await step.run("second", () => taken.push("second"));
      await after();
    },
  });
  const run = attemptOf(definition, {
    installation: "",
    database,
    store: openStore(database),
    liveness,
    log: silentLog,
  });
  const error = await run(job.payload, job as never, new AbortController().signal)
    .then((write) => write?.())
    .then(
      () => undefined,
      (error: Error) => error,
    );
  return {
    error,
    outcome: () =>
      database.execute(sql`
        select r.state, r.attempts, j.locked_by,
               (select count(*)::int from notika.step as s where s.run_id = r.run_id) as steps
          from notika.runs as r
          left join notika_worker._private_jobs as j on j.key = r.run_id::text
         where r.run_id = ${job.key}::text::bigint`),
  };
}

/** Claims the only job, also if another runner has it. */
async function claim(runner: string) {
  const { database } = embedded;
  await database.script("update notika_worker._private_jobs set locked_by = null, locked_at = null");
  const [job] = await database.execute<{ key: string; payload: object }>(sql`
    select * from notika._claim(${runner}, array(select id from notika_worker._private_tasks), 1)`);
  if (!job) throw new Error("there is no job");
  return job;
}
