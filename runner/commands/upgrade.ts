import { install, planUpgrade } from "../install/install.ts";
import { reportInstall } from "./install.ts";
import { type Command, defineCommand, directOption, jsonOption, urlOption } from "./support/command.ts";
import { output, table } from "./support/output.ts";

export const command: Command = defineCommand({
  options: { ...urlOption, ...directOption, ...jsonOption, "dry-run": { type: "boolean", default: false } },
  async run({ values, database }) {
    if (!values["dry-run"]) return reportInstall(await install(database), values.json);
    output(values.json, await planUpgrade(database), ({ from, to, migrations, code, locks, refresh }) =>
      table([
        { step: "version", detail: from === to ? to : `${from ?? "none"} becomes ${to}` },
        ...migrations.map((name) => ({ step: "migration", detail: name })),
        { step: "code", detail: code },
        ...locks.map(({ relation, mode }) => ({
          step: "lock",
          detail: `${relation}: ${mode}, until the upgrade commits`,
        })),
        ...refresh.map(({ table, workflow }) => ({
          step: "refresh",
          detail: `${table}: the triggers of ${workflow}, in a transaction of its own`,
        })),
      ]),
    );
    return 0;
  },
});
