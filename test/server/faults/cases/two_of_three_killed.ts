import type { Fault } from "../harness/fault.ts";

export default {
  title: "kill -9 of two of three runners",
  runners: 3,
  async strike(stage) {
    while (stage.runners.length < 3) await stage.startRunner();
    const [first, second] = stage.runners;
    if (first && second) await Promise.all([stage.end(first, "SIGKILL"), stage.end(second, "SIGKILL")]);
  },
} satisfies Fault;
