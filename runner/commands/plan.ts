import { plan } from "../install/publish.ts";
import { printable, printableScript } from "../printable.ts";
import { publishOptions, requestedPublications } from "./publish/publications.ts";
import { type Command, defineCommand } from "./support/command.ts";
import { output } from "./support/output.ts";

export const command: Command = defineCommand({
  options: publishOptions,
  takesArguments: true,
  role: "publisher",
  async run(context) {
    const plans: Plan[] = [];
    for (const publication of await requestedPublications(context)) {
      plans.push({ workflow: publication.name, steps: await plan(context.database.execute, publication) });
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
  if (steps.length === 0) return `-- ${printable(workflow)}: nothing to do\n`;
  const statements = steps.map(
    ({ statement, lock }) => `${lock ? `-- lock: ${printable(lock)}\n` : ""}${printableScript(statement)}\n`,
  );
  return `-- ${printable(workflow)}\n${statements.join("\n")}`;
}
