import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import path from "node:path";
import { setTimeout } from "node:timers/promises";
import { promisify } from "node:util";
import { raw } from "sql-template-tag";
import { openDatabase } from "../../../runner/database/database.ts";
import type { Bench } from "../bench.ts";
import type { Findings } from "../measure.ts";

const root = path.resolve(import.meta.dirname, "../../..");

/** How much memory `notika run` takes while it works off a backlog: the command as the package brings it. */
export async function memory({ durable, seconds, say }: Bench): Promise<Findings> {
  const events = Math.min(1_000_000, Math.ceil(seconds * 70) * 1000);
  say(`run: memory of notika run over ${events.toLocaleString("en")} events`);
  await promisify(execFile)("npm", ["run", "build"], { cwd: root });
  const url = await durable.createDatabase();
  const database = openDatabase({ connect: url, connections: 1 });
  await database.script(`
    create table bench.noop (id int);
    select notika.publish('noop', 'bench.noop', operations => '{insert}', columns => '{id}');
    insert into bench.noop select generate_series(1, ${events})`);
  const runner = spawn(
    process.execPath,
    ["dist/runner/cli.js", "run", "--tasks", path.join(root, "test/bench/tasks")],
    { cwd: root, env: { ...process.env, DATABASE_URL: url }, stdio: "ignore" },
  );
  try {
    const megabytes: number[] = [];
    const until = performance.now() + seconds * 4000;
    let done = 0;
    while (megabytes.length < 4 || (done < events && performance.now() < until)) {
      // Counting what is done takes longer the more it is.
      for (let sample = 0; sample < 4; sample++) {
        await setTimeout(Math.min(250, seconds * 20));
        if (runner.exitCode !== null) throw new Error(`notika run ended with ${runner.exitCode}`);
        const { stdout } = await promisify(execFile)("ps", ["-o", "rss=", "-p", `${runner.pid}`]);
        if (done > 0) megabytes.push(Number(stdout) / 1024);
      }
      const [row] = await database.execute<{ done: number }>(raw("select count(*)::int as done from notika.run_log"));
      done = row?.done ?? 0;
    }
    const half = Math.ceil(megabytes.length / 2);
    const peaks = [megabytes.slice(0, half), megabytes.slice(half)].map((part) => Math.max(...part));
    const [first = Number.NaN, second = Number.NaN] = peaks;
    return {
      comparisons: [
        {
          title: `memory of notika run while it did ${done.toLocaleString("en")} of ${events.toLocaleString("en")} runs`,
          unit: "MB resident",
          samples: { "from the first run on": megabytes },
          note: "The command of the package, and a task in TypeScript.",
        },
      ],
      goals: [
        { claim: "memory of notika run at its peak, MB", values: [Math.max(...peaks)], limit: { atMost: 200 } },
        {
          claim: "peak of the second half of the backlog, to that of the first",
          values: [second / first],
          limit: { atMost: 1.1 },
        },
      ],
    };
  } finally {
    runner.kill("SIGKILL");
    if (runner.exitCode === null && runner.signalCode === null) await once(runner, "exit");
    await database.close();
    await durable.dropDatabase(url);
  }
}
