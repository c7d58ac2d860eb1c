import path from "node:path";
import { raw } from "sql-template-tag";
import { openDatabase } from "../../../runner/database/database.ts";
import { freePort, type Postgres } from "../../support/postgres.ts";
import { type Answer, openApi } from "./api.ts";
import type { Application, Place, Refusal, Stage } from "./application.ts";
import { makeFolder } from "./program.ts";
import { asLine, compareAnswers } from "./report.ts";
import { openWatch, type Watch } from "./watch.ts";

interface PerformOptions {
  application: Application;
  server: Postgres;
  folder: string;
  /** With Notika beside it. */
  watched: boolean;
  say(progress: string): void;
}

export interface Performance {
  answers: Answer[];
  /** Columns, constraints and indexes before the refusals. */
  catalog: string[];
  objections: string[];
  report(without: Performance): string[];
  seconds: number;
}

/** Plays the whole script of an application in a database of its own. */
export async function perform(options: PerformOptions): Promise<Performance> {
  const { application, watched } = options;
  const say = (progress: string) => options.say(`${watched ? "with   " : "without"}  ${progress}`);
  const began = performance.now();
  const place = await makePlace(options);
  const published = application.chapters.flatMap(({ publish = [] }) => publish);

  say("prepare");
  await application.prepare?.(place);
  let program = await application.start(place);
  const names = published.map(({ name }) => name);
  const watch = watched
    ? await openWatch(place.database.url, names, place.database.user, application.publishes)
    : undefined;
  const api = openApi(place.port, application.client);
  const objections: string[] = [];
  const lines: string[] = [];
  try {
    await application.logIn?.(api);
    const stage = {
      api,
      place,
      async restart(meanwhile?: () => Promise<void>) {
        await program.stop();
        await meanwhile?.();
        program = await application.start(place);
        await application.logIn?.(api);
        return program.said();
      },
    };
    for (const { title, drive, publish = [] } of application.chapters) {
      const before = api.answers.length;
      await drive(stage);
      say(`${title}: ${api.answers.length - before} requests`);
      if (!watch) continue;
      const compared = await watch.compare();
      objections.push(...compared.objections.map((objection) => `${title}: ${objection}`));
      const events = Object.values(compared.events).reduce((sum, count) => sum + count, 0);
      say(`  so far ${compared.changes} changes seen, ${events} events, ${objections.length} objections`);
      await watch.publish(publish, application.publishes ? place.database.user : "none");
    }
    const catalog = await readCatalog(place);
    const requests = api.answers.length;
    const seconds = (performance.now() - began) / 1000;

    for (const refusal of application.refusals) {
      lines.push(...(await refuse(refusal, { stage, said: () => program.said(), watch, objections })));
    }
    if (watch) {
      const settled = await watch.settle();
      const compared = await watch.compare();
      objections.push(...settled.objections, ...compared.objections.map((objection) => `at the end: ${objection}`));
      lines.push(`${compared.changes} changes seen by the shadow, ${settled.runs} runs`);
      for (const [name, count] of Object.entries(compared.events)) lines.push(`  ${name}: ${count} events`);
      lines.push(...(await guardLog(watch)));
    }
    return {
      answers: api.answers,
      catalog,
      objections,
      seconds,
      report: (without) => [
        `${application.name}: ${requests} requests, ${Math.round(without.seconds)} s without, ${Math.round(seconds)} s with`,
        ...lines,
      ],
    };
  } catch (error) {
    console.error(
      program
        .said()
        .replaceAll(/.*DeprecationWarning.*\n/g, "")
        .slice(-6000),
    );
    console.error(api.answers.slice(-3).map(asLine).join("\n"));
    throw error;
  } finally {
    await program.stop();
    await watch?.close();
  }
}

interface RefuseOptions {
  stage: Stage;
  said(): string;
  watch: Watch | undefined;
  objections: string[];
}

/** Sends what breaks a workflow; with Notika once in vain, and once more after the workflow was unpublished. */
async function refuse(refusal: Refusal, { stage, said, watch, objections }: RefuseOptions): Promise<string[]> {
  const { api } = stage;
  const lines: string[] = [];
  const answersOf = async (work: () => Promise<unknown>) => {
    const start = api.answers.length;
    await work();
    return api.answers.splice(start);
  };
  if (watch) {
    const before = await answersOf(() => refusal.look(api));
    const already = said().length;
    const refused = await answersOf(() => refusal.send(stage));
    const logged = said()
      .slice(already)
      .split("\n")
      .filter((line) => line.includes("workflow"));
    const after = await answersOf(() => refusal.look(api));
    lines.push(
      `${refusal.title}:`,
      ...refused.map((answer) => `  refused: ${asLine(answer)}`),
      ...logged.slice(0, 1).map((line) => `  its log: ${line.slice(0, 800)}`),
    );
    if (refused.every(({ status }) => status < 400)) objections.push(`${refusal.title}: was not refused`);
    for (const objection of compareAnswers(before, after)) {
      objections.push(`${refusal.title}: the refusal left something, ${objection}`);
    }
    await watch.unpublish(refusal.workflow);
  }
  const start = api.answers.length;
  await refusal.send(stage);
  lines.push(
    ...api.answers
      .slice(start)
      .map((answer) => `  ${watch ? "unpublished" : "without"}: ${asLine(answer).slice(0, 160)}`),
  );
  await refusal.look(api);
  return lines;
}

async function guardLog(watch: Watch): Promise<string[]> {
  const rows = await watch.query<{ line: string }>(
    raw(`select format('  guard_log: %s %s %s x %s', workflow, verdict, kind, count(*)) as line
           from notika.guard_log group by workflow, verdict, kind order by 1`),
  );
  const findings = await watch.query<{ line: string }>(
    raw(
      "select format('  health: %s %s %s', severity, finding, detail) as line from notika.health where severity <> 'ok'",
    ),
  );
  return [...rows, ...findings].map(({ line }) => line);
}

async function makePlace({ application, server, folder, watched }: PerformOptions): Promise<Place> {
  const name = `${application.name}_${watched ? "with" : "without"}`.replaceAll("-", "_");
  const url = await server.createDatabase(name);
  const database = openDatabase({ connect: url, connections: 1 });
  await database.script(`alter database "${name}" owner to application`).finally(database.close);
  return {
    database: { url, port: server.port, name, user: "application" },
    port: await freePort(),
    folder: makeFolder(path.join(folder, name)),
  };
}

async function readCatalog(place: Place): Promise<string[]> {
  const database = openDatabase({ connect: place.database.url, connections: 1 });
  const rows = await database
    .execute<{ line: string }>(
      raw(`
        select format('column %s.%s %s %s %s', c.oid::regclass, a.attname, format_type(a.atttypid, a.atttypmod),
                      a.attnotnull, pg_get_expr(d.adbin, d.adrelid)) as line
          from pg_class as c
          join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
          left join pg_attrdef as d on (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
         where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
        union all
        select format('constraint %s %s', conrelid::regclass, pg_get_constraintdef(oid))
          from pg_constraint where connamespace = 'public'::regnamespace and contype <> 'n'
        union all
        select indexdef from pg_indexes where schemaname = 'public'
        union all
        select format('owner of %s %s', oid::regclass, relowner::regrole)
          from pg_class where relnamespace = 'public'::regnamespace
        order by 1`),
    )
    .finally(database.close);
  return rows.map(({ line }) => line);
}
