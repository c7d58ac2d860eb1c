import { once } from "node:events";
import { rmSync, writeFileSync } from "node:fs";
import type { Fault } from "../harness/fault.ts";
import type { Stage } from "../harness/stage.ts";

const feast = ({ journal }: Stage) => `${journal.file}.feast`;

export default {
  title: "the runner runs out of memory, a new one started",
  runner: (stage) => ({ env: { NODE_OPTIONS: "--max-old-space-size=100", NOTIKA_FEAST: feast(stage) } }),
  async strike(stage) {
    const [runner] = stage.runners;
    if (!runner) return;
    const ended = once(runner.child, "exit");
    writeFileSync(feast(stage), "");
    await ended;
    await stage.end(runner, "SIGKILL");
    rmSync(feast(stage));
    await stage.startRunner();
  },
} satisfies Fault;
