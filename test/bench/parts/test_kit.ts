import { execFile } from "node:child_process";
import path from "node:path";
import { promisify } from "node:util";
import type { Bench } from "../bench.ts";
import { type Findings, interleave } from "../measure.ts";

const root = path.resolve(import.meta.dirname, "../../..");

/** What a test file of somebody who uses notika/test waits for, in a process of its own. */
export async function testKit({ seconds, say }: Bench): Promise<Findings> {
  say("test-kit: start, one test, the next world");
  const told: Record<"start" | "one test" | "next world", number>[] = [];
  const samples = await interleave(
    {
      "process start to a world that is ready": async () => {
        const { stdout } = await promisify(execFile)(
          process.execPath,
          ["--import", "tsx", path.join(root, "test/bench/test_kit/file.ts")],
          { cwd: root },
        );
        const times = JSON.parse(stdout);
        told.push(times);
        return times.start;
      },
    },
    seconds,
  );
  const counted = told.slice(1);
  return {
    comparisons: [
      {
        title: "a test file",
        unit: "ms",
        samples: {
          ...samples,
          "one insert, its workflow run to the end": counted.map((times) => times["one test"]),
          "the next world of the same process": counted.map((times) => times["next world"]),
        },
      },
    ],
    goals: [],
  };
}
