import { UsageError } from "../errors.ts";
import { grant, type Statement } from "../install/grant.ts";
import { indented, printable, printableScript } from "../printable.ts";
import { items } from "./support/arguments.ts";
import { type Command, defineCommand, jsonOption, urlOption } from "./support/command.ts";
import { output } from "./support/output.ts";

export const command: Command = defineCommand({
  options: {
    ...urlOption,
    ...jsonOption,
    schema: { type: "string" },
    tables: { type: "string" },
    revoke: { type: "boolean", default: false },
    apply: { type: "boolean", default: false },
  },
  takesArguments: true,
  async run({ values, arguments: [role, ...others], database }) {
    if (role === undefined || others.length > 0) {
      throw new UsageError("grant needs one role", { hint: "For example: notika grant notika --schema app" });
    }
    const { revoke, apply } = values;
    const schemas = items(values.schema);
    const tables = items(values.tables);

    const statements = await grant(database, { role, schemas, tables, revoke, apply });

    output(values.json, statements, (statements) => script(role, statements));
    if (!revoke && !schemas && !tables) {
      process.stderr.write("no tables are specified: add --schema app, or --tables app.users,app.orders\n");
    }
    if (apply) process.stderr.write(`${statements.length} statements were run\n`);
    return 0;
  },
});

function script(role: string, statements: Statement[]): string {
  if (statements.length === 0) return `-- nothing to do for role ${printable(role)}\n`;
  return statements
    .map(({ statement, reason }) => `${reason ? comment(reason) : ""}${printableScript(statement)};\n`)
    .join("");
}

function comment(text: string): string {
  return `-- ${indented(text, "-- ")}\n`;
}
