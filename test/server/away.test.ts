import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import sql from "sql-template-tag";
import { expect, test } from "vitest";
import { openDatabase } from "../../runner/database/database.ts";
import { install } from "../../runner/install/install.ts";
import { isThorough } from "../support/database.ts";
import { startPostgres } from "../support/postgres.ts";
import { spawnRunner } from "../support/runner.ts";

// It takes the time that it takes until a runner is given up.
test.runIf(isThorough)(
  "a blocked event loop keeps its run; a process that stood still does not, and goes no further when it wakes",
  async ({ onTestFinished }) => {
    const server = await startPostgres({ major: 18 });
    onTestFinished(() => server.stop());
    const url = await server.createDatabase();
    const database = openDatabase({ connect: url });
    onTestFinished(() => database.close());
    await install(database);
    await database.script(`
      create table public.work (id bigint generated always as identity primary key, kind text not null, seconds int);
      create table public.taken (what text, pid int);
      select notika.publish('patient', 'public.work')`);
    const folder = path.join(import.meta.dirname, "misbehaviour");
    const [still, blocked] = [spawnRunner(url, folder), spawnRunner(url, folder)];
    onTestFinished(async () => void (await Promise.all([still.end("SIGKILL"), blocked.end("SIGKILL")])));
    await Promise.all([still.says("running"), blocked.says("running")]);

    blocked.child.kill("SIGSTOP");
    await database.script("insert into public.work (kind, seconds) values ('takes two steps', 2)");
    while ((await database.execute(sql`select from public.taken`)).length === 0) await sleep(50);
    still.child.kill("SIGSTOP");
    blocked.child.kill("SIGCONT");
    await database.script("insert into public.work (kind, seconds) values ('blocks the event loop', 70)");
    const other = spawnRunner(url, folder);
    onTestFinished(async () => void (await other.end("SIGKILL")));
    await sleep(85_000);
    still.child.kill("SIGCONT");
    await still.says("the run was given to another runner while this one could not be reached, and stops here");

    expect(await database.execute(sql`select run_id::int, state, attempts from notika.runs order by 1`)).toEqual([
      { run_id: 1, state: "done", attempts: 2 },
      { run_id: 2, state: "done", attempts: 1 },
    ]);
    expect(await database.execute(sql`select what, pid from public.taken order by 1, 2`)).toEqual([
      ...[still.child.pid, other.child.pid].sort((a = 0, b = 0) => a - b).map((pid) => ({ what: "first", pid })),
      { what: "second", pid: other.child.pid },
    ]);
    expect(blocked.said().filter(({ message }) => /did not answer|polling/.test(message))).toEqual([]);
  },
  180_000,
);
