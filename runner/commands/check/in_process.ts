import { type Embedded, openEmbedded } from "../../embedded/embedded.ts";
import { shippedExtensions } from "../../embedded/extensions.ts";
import { readScript } from "../../embedded/psql_script.ts";
import { type LoadedSchema, loadSchema } from "../../embedded/schema.ts";
import { NotikaError } from "../../errors.ts";
import { installVersion } from "../../install/bundle.ts";
import { install } from "../../install/install.ts";
import { publications, publish } from "../../install/publish.ts";
import { printable } from "../../printable.ts";
import type { Tasks } from "../../workflow/load.ts";
import type { Migration } from "./migration.ts";
import { readSql } from "./read.ts";
import { judge, type Verdict } from "./verdicts.ts";

/** Judges migrations without a server, with a schema in a file and the workflows that tasks declare. */
export async function judgeInProcess(schema: string, tasks: Tasks, migrations: Migration[]): Promise<Verdict[]> {
  const text = await readSql(schema);
  const extensions = await shippedExtensions(text, ...migrations.map((migration) => migration.sql));
  const embedded = await openEmbedded({ prepare: install, version: await installVersion(), extensions });
  try {
    const loaded = await loadSchema(embedded, readScript(text));
    tell(schema, loaded);
    return [
      ...missed(schema, loaded),
      ...(await publishAll(schema, embedded, tasks, loaded)),
      ...(await judgeWithStandIns(embedded, migrations, loaded)),
    ];
  } finally {
    await embedded.close();
  }
}

/** Reports stand-ins and statements that were left out, on stderr: they concern the embedded Postgres, not the migrations. */
function tell(schema: string, { standIns, leftOut }: LoadedSchema) {
  const lines: string[] = [];
  if (standIns.names.length > 0) {
    lines.push(
      `${schema}: replaced by stand-ins, because the Postgres in this process does not have them: ${standIns.names.join(", ")}`,
    );
  }
  const explained = leftOut.filter((part) => part.isPart || part.isExplained);
  for (const { line, statement, reason } of explained.slice(0, told)) {
    lines.push(`${schema}:${line}: left out: ${reason} (${short(statement)})`);
  }
  if (explained.length > told) lines.push(`${schema}: left out: ${explained.length - told} more statements`);
  for (const line of lines) process.stderr.write(`${printable(line)}\n`);
}

const told = 10;

function short(statement: string): string {
  return statement.length > 60 ? `${statement.slice(0, 60)} …` : statement;
}

/** Verdicts for statements that were left out without an explanation: they may make a difference. */
function missed(schema: string, { leftOut }: LoadedSchema): Verdict[] {
  return leftOut
    .filter((part) => !part.isPart && !part.isExplained)
    .map(({ line, statement, reason }) => ({
      file: schema,
      line,
      statement,
      workflow: null,
      verdict: "unknown",
      problem: `left out of the schema: ${reason}`,
      remedy: "What depends on it is not checked.",
    }));
}

/** Whether the schema differs from what it would be on a server. */
function lacks({ standIns, leftOut }: Pick<LoadedSchema, "standIns" | "leftOut">): boolean {
  return standIns.names.length > 0 || leftOut.some(({ isPart }) => !isPart);
}

/** Publishes the workflows; the verdict is unknown for one on an object that could not be created here. */
async function publishAll(schema: string, { database }: Embedded, tasks: Tasks, loaded: LoadedSchema) {
  const unknown: Verdict[] = [];
  for (const publication of publications(tasks)) {
    try {
      await publish(database.execute, publication);
    } catch (error) {
      const name = publication.on?.table.split(".").at(-1)?.replaceAll('"', "") ?? "";
      const part = loaded.leftOut.find(({ statement, isPart }) => !isPart && name !== "" && statement.includes(name));
      const isGone = /^table .* does not exist$/.test((error as Error).message);
      if (isGone ? !part : !lacks(loaded)) throw error;
      unknown.push({
        file: schema,
        line: part?.line ?? 1,
        statement: part?.statement ?? "",
        workflow: publication.name,
        verdict: "unknown",
        problem: `cannot be published here: ${(error as Error).message}`,
        remedy: "It is not checked. Check against a database: notika check --url <url> FILE",
      });
    }
  }
  return unknown;
}

/**
 * Judges migrations.  A statement that fails only because of a stand-in or a missing object is unknown: the rest is judged
 * without it.
 */
async function judgeWithStandIns(embedded: Embedded, migrations: Migration[], loaded: LoadedSchema) {
  const unknown: Verdict[] = [];
  let tried = migrations;
  for (let tries = 0; ; tries++) {
    const found = await judge(embedded.database, tried);
    const failed = found.find(({ verdict }) => verdict === "error");
    if (!failed || tries === 200) return [...unknown, ...found];
    if (await loaded.standIns.supply(failed.problem, failed.statement)) continue;
    if (!isExplained(failed, loaded)) return [...unknown, ...found];
    unknown.push({
      ...failed,
      verdict: "unknown",
      problem: `cannot be tried here: ${failed.problem}`,
      remedy: "Check the other statements without this one.",
    });
    tried = tried.map((migration) => (migration.file === failed.file ? without(migration, failed.line) : migration));
  }
}

function isExplained({ problem }: Verdict, loaded: LoadedSchema): boolean {
  if (/not supported|could not access file|could not open extension/.test(problem)) return true;
  if (!lacks(loaded)) return false;
  const [, kind, name] = /^(\w+) "([^"]+)".* does not exist/.exec(problem) ?? [];
  if (kind === "relation")
    return loaded.leftOut.some(({ statement }) => statement.includes(name?.split(".").at(-1) ?? ""));
  if (kind === "column" || kind === "table") return false;
  return /does not exist|no default operator class|cannot be cast|is not defined/.test(problem);
}

/** The same migration without the statement on a line; the numbers of the other lines stay. */
function without(migration: Migration, line: number): Migration {
  const statement = migration.statements.find((it) => it.line === line);
  if (!statement) throw new NotikaError("NOTIKA_CHECK", `${migration.file}:${line}: there is no such statement`);
  const lines = migration.sql.split("\n");
  const before = lines.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
  const at = migration.sql.indexOf(statement.text, before);
  const blank = statement.text.replace(/[^\n]+/g, "");
  return {
    ...migration,
    sql: migration.sql.slice(0, at) + blank + migration.sql.slice(at + statement.text.length),
    statements: migration.statements.filter((it) => it !== statement),
  };
}
