import { plan } from "../publish.ts";
import { type Command, defineCommand, output } from "./support/command.ts";
import { publishOptions, requestedWorkflows } from "./support/requested.ts";

export const command: Command = defineCommand({
  options: publishOptions,
  takesArguments: true,
  async run(context) {
    const plans: Plan[] = [];
    for (const { name, on } of await requestedWorkflows(context)) {
      plans.push({ workflow: name, steps: await plan(context.database.execute, name, on) });
    }
    output(context.values.json, plans, (plans) => plans.map(script).join("\n"));
    return 0;
  },
});

interface Plan {
  workflow: string;
  steps: Awaited<ReturnType<typeof plan>>;
}

function script({ workflow, steps }: Plan): string {
  if (steps.length === 0) return `-- ${workflow}: nothing to do\n`;
  const statements = steps.map(({ statement, lock }) => `${lock ? `-- lock: ${lock}\n` : ""}${statement}\n`);
  return `-- ${workflow}\n${statements.join("\n")}`;
}
