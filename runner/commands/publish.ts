import { publish } from "../install/publish.ts";
import { publishOptions, requestedPublications } from "./publish/publications.ts";
import { type Command, defineCommand } from "./support/command.ts";
import { output, table } from "./support/output.ts";

export const command: Command = defineCommand({
  options: publishOptions,
  takesArguments: true,
  role: "publisher",
  async run(context) {
    const publications = await requestedPublications(context);
    // All or none, so that no deployment is left incomplete.
    const published = await context.database.transaction(async (execute) => {
      const rows = [];
      for (const publication of publications) {
        const outcome = await publish(execute, publication);
        rows.push({ workflow: publication.name, table: publication.on?.table ?? null, outcome });
      }
      return rows;
    });
    output(context.values.json, published, (rows) =>
      rows.length > 0 ? table(rows) : "no task declares a table or a schedule\n",
    );
    return 0;
  },
});
