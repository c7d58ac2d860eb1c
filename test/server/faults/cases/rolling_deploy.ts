import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Fault } from "../harness/fault.ts";
import { installStage, tasks } from "../harness/stage.ts";

const deployed = path.join(tasks, "../tasks_deployed");

export default {
  title: "a rolling deploy: the tasks of before lack one of two workflows, the other has a step more",
  async prepare(stage) {
    await installStage(stage);
    await stage.database.script(`
      select notika.publish('record_change', 'public.item', operations => '{insert,update}', columns => '{id,version}');
      select notika.publish('record_removal', 'public.item', operations => '{delete}', columns => '{id,version}')`);
  },
  async strike(stage) {
    // Back to the tasks of before, and forth again, while there is always somebody.
    for (const folder of [tasks, deployed]) {
      const before = [...stage.runners];
      await stage.startRunner({ tasks: folder });
      await Promise.all(before.map((runner) => stage.end(runner, "SIGTERM")));
      await sleep(stage.isShort ? 500 : 3000 * stage.random());
    }
  },
} satisfies Fault;
