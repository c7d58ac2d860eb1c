// npm run test:applications: published applications, driven over HTTP, with Notika beside them and without.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";
import { raw } from "sql-template-tag";
import { openDatabase } from "../../runner/database/database.ts";
import { type Major, majors } from "../support/binaries.ts";
import { startPostgres } from "../support/postgres.ts";
import { directus } from "./directus/index.ts";
import type { Application } from "./harness/application.ts";
import { perform } from "./harness/perform.ts";
import { makeFolder } from "./harness/program.ts";
import { compareAnswers, differences } from "./harness/report.ts";
import { parseServer } from "./parse/index.ts";

const applications: Application[] = [parseServer, directus];
const help = `npm run test:applications -- [application …] [options]

applications: ${applications.map(({ name }) => name).join(", ")}; without one all of them

  --postgres N    the version of the server, ${majors.join(", ")}; default 18`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { postgres: { type: "string", default: "18" }, help: { type: "boolean", default: false } },
});
const major = Number(values.postgres) as Major;
const chosen = positionals.length > 0 ? applications.filter(({ name }) => positionals.includes(name)) : applications;
if (values.help || chosen.length < positionals.length || !majors.includes(major)) {
  console.error(help);
  process.exit(values.help ? 0 : 2);
}

for (const signal of ["SIGINT", "SIGTERM"] as const) process.once(signal, () => process.exit(1)); // programs end, too
const began = Date.now();
let failed = 0;
for (const application of chosen) failed += await tryOut(application);
say(failed === 0 ? "all is well" : `${failed} objections`);
process.exitCode = failed === 0 ? 0 : 1;

async function tryOut(application: Application): Promise<number> {
  say(`${application.name} ${application.version} (${application.licence}): installing`);
  await application.install();
  const server = await startPostgres({ major, settings: { max_connections: "200" } });
  const folder = makeFolder(mkdtempSync(path.join(tmpdir(), "notika-application-")));
  try {
    const administrator = openDatabase({ connect: server.url, connections: 1 });
    const [row] = await administrator.execute<{ version: string }>(raw("select version() as version"));
    await administrator.script("create role application login").finally(administrator.close);
    say(row?.version.split(" on ")[0] ?? "");

    const without = await perform({ application, server, folder, watched: false, say });
    const beside = await perform({ application, server, folder, watched: true, say });
    const objections = [
      ...beside.objections,
      ...compareAnswers(without.answers, beside.answers),
      ...differences(without.catalog, beside.catalog),
    ];
    for (const line of [...beside.report(without), ...objections.map((objection) => `OBJECTION ${objection}`)]) {
      console.log(line);
    }
    return objections.length;
  } finally {
    await server.stop();
    rmSync(folder, { recursive: true, force: true });
  }
}

function say(progress: string) {
  const passed = new Date(Date.now() - began).toISOString().slice(11, 19);
  process.stderr.write(`${passed}  ${progress}\n`);
}
