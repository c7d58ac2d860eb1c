import { cp, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { built } from "./build.ts";

/** What is changed in the code of the next release: a piece of a file, and what stands there instead. */
type Change = [file: string, before: string, after: string];

/**
 * A folder with a version after this one: one more migration, which changes tables that writers, runners and the guard use;
 * other code; and triggers of another form.
 */
export async function nextRelease({ migration = laterMigration, changes = laterCode } = {}) {
  const folder = await mkdtemp(path.join(tmpdir(), "notika-next-"));
  const root = path.resolve(import.meta.dirname, "../..");
  for (const part of ["sql", "migrations", "package.json"]) {
    await cp(path.join(root, part), path.join(folder, part), { recursive: true, verbatimSymlinks: true });
  }
  await cp(built, path.join(folder, "runner"), { recursive: true });
  await symlink(path.join(root, "node_modules"), path.join(folder, "node_modules"));
  await writeFile(path.join(folder, "migrations/committed/000002-later.sql"), migration);
  for (const [file, before, after] of changes) {
    const text = await readFile(path.join(folder, file), "utf8");
    if (!text.includes(before)) throw new Error(`${file} does not contain: ${before}`);
    await writeFile(path.join(folder, file), text.replace(before, after));
  }
  return {
    command: [process.execPath, path.join(folder, "runner/cli.js")],
    close: () => rm(folder, { recursive: true, force: true }),
  };
}

const laterMigration = `
alter table notika.event_log_0 add column later integer;
alter table notika.event_log_1 add column later integer;
alter table notika.event_log_2 add column later integer;
comment on column notika.event_log_0.later is 'Of a later version.';
comment on column notika.event_log_1.later is 'Of a later version.';
comment on column notika.event_log_2.later is 'Of a later version.';
alter table notika.workflow add column later integer default 1;
comment on column notika.workflow.later is 'Of a later version.';
alter table notika.run_log add column later integer;
comment on column notika.run_log.later is 'Of a later version.';
alter table notika.step add column later integer;
comment on column notika.step.later is 'Of a later version.';
`;

const laterCode: Change[] = [
  ["package.json", '"version": "0.1.0"', '"version": "0.2.0"'],
  ["sql/1_base/10_schema.sql", "'0.1.0'", "'0.2.0'"],
  [
    "sql/4_publish/36_capture.sql",
    "  v_nothing pg_catalog.bool;\nbegin",
    "  v_nothing pg_catalog.bool;\n  v_later pg_catalog.int4;\nbegin",
  ],
];
