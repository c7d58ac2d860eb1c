import { UsageError } from "../errors.ts";
import { type Filter, findRuns } from "./runs/find.ts";
import { followRuns } from "./runs/follow.ts";
import { showRun } from "./runs/show.ts";
import { runIds, wholeNumber } from "./support/arguments.ts";
import { type Command, defineCommand, jsonOption, urlOption } from "./support/command.ts";
import { output, table } from "./support/output.ts";

const states = ["ready", "running", "waiting", "retrying", "held", "done", "failed", "cancelled", "expired"];

export const command: Command = defineCommand({
  options: {
    ...urlOption,
    ...jsonOption,
    workflow: { type: "string" },
    state: { type: "string" },
    since: { type: "string" },
    table: { type: "string" },
    key: { type: "string", multiple: true },
    limit: { type: "string", default: "20" },
    tail: { type: "boolean", default: false },
  },
  takesArguments: true,
  role: "reader",
  async run({ values, arguments: given, database }) {
    if (given.length > 0) {
      const [id = "", ...others] = runIds(given);
      if (others.length > 0) throw new UsageError("only one run can be shown at a time", { hint: `notika runs ${id}` });
      return showRun(database, id, values.json);
    }

    const { workflow, state, since } = values;
    if (state !== undefined && !states.includes(state)) {
      throw new UsageError(`there is no state ${state}`, { hint: `The states are ${states.join(", ")}.` });
    }
    const filter: Filter = {
      workflow,
      state,
      since,
      table: values.table,
      key: values.key && Object.fromEntries(values.key.map(keyValue)),
      limit: wholeNumber("--limit", values.limit),
    };
    if (values.tail) return followRuns(database, filter, values.json);
    output(values.json, await findRuns(database, filter), (rows) => (rows.length > 0 ? table(rows) : "no runs\n"));
    return 0;
  },
});

function keyValue(text: string): [string, string] {
  const [, column, value] = /^([^=]+)=(.*)$/s.exec(text) ?? [];
  if (column === undefined || value === undefined) {
    throw new UsageError(`--key needs a column and its value, not ${text}`, { hint: "For example: --key id=7" });
  }
  return [column, value];
}
