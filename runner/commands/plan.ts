import { plan } from "../publish.ts";
import { type Command, output } from "./context.ts";
import { declaredWorkflows, triggerOptions } from "./declared.ts";

export const command: Command = {
  arguments: true,
  options: triggerOptions,
  async run(context) {
    const plans: { workflow: string; steps: Awaited<ReturnType<typeof plan>> }[] = [];
    for (const { name, on } of await declaredWorkflows(context)) {
      plans.push({ workflow: name, steps: await plan(context.database.execute, name, on) });
    }
    output(context, plans, () =>
      plans
        .map(({ workflow, steps }) => {
          const statements = steps.map(({ statement, lock }) => `${lock ? `-- lock: ${lock}\n` : ""}${statement}\n`);
          return `-- ${workflow}${steps.length === 0 ? ": nothing to do" : ""}\n${statements.join("\n")}`;
        })
        .join("\n"),
    );
    return 0;
  },
};
