import { afterAll, beforeAll, expect, test } from "vitest";
import { install } from "../../runner/install/install.ts";
import { silentLog } from "../../runner/log.ts";
import { createRunner } from "../../runner/worker/index.ts";
import type { Event } from "../../runner/workflow/event.ts";
import type { Postgres } from "../support/postgres.ts";
import { openSession, startCluster, stopCluster, until } from "./cluster.ts";

let cluster: Postgres;

beforeAll(async () => {
  cluster = await startCluster();
});
afterAll(() => stopCluster(cluster));

test.each([
  ["LATIN1", "Zoë Müller, Ægir"],
  ["LATIN9", "Zoë Müller, 5 €"],
  ["WIN1252", "Zoë “Müller”, 5 €"],
  ["KOI8R", "Анна Каренина"],
  ["EUC_JP", "紫式部 カナ"],
  ["SQL_ASCII", "Zoë Müller, 紫式部"],
])("in a database whose encoding is %s", async (encoding, name) => {
  const server = openSession(cluster.url);
  const database = `in_${encoding.toLowerCase()}`;
  await server.query(
    `create database ${database} template template0 encoding '${encoding}' lc_collate 'C' lc_ctype 'C'`,
  );
  await server.close();
  const url = cluster.url.replace(/[^/]*$/, database);
  const db = openSession(url);
  const seen: Event[] = [];

  const { steps } = await install(db.database);
  await db.database.script(
    `
    create table public.person (id int primary key, "größe" text, name text)`.replace(
      "größe",
      encoding === "KOI8R" ? "имя" : encoding === "EUC_JP" ? "名" : "größe",
    ),
  );
  await db.query("select notika.publish('greet', 'public.person', '{insert,update}', condition => $1)", [
    `new.name <> '${name} jr.'`,
  ]);
  await db.query("insert into public.person (id, name) values (1, $1), (2, $1 || ' jr.')", [name]);
  const runner = await createRunner({
    url,
    log: silentLog,
    tasks: {
      async greet({
        event,
        step,
      }: {
        event: Event;
        step: { run(name: string, work: () => unknown): Promise<unknown> };
      }) {
        await step.run(`greet ${event.new?.name}`, () => seen.push(event));
      },
    },
  });
  await until(db, "exists (select from notika.runs where state = 'done')");
  await runner.stop();

  expect(steps.filter(({ outcome }) => outcome === "failed")).toEqual([]);
  expect(seen).toMatchObject([{ new: { id: 1, name } }]);
  expect(await db.query("select finding, detail from notika.health where severity <> 'ok'")).toEqual([]);
  expect(await db.query("select name from notika.step")).toEqual([{ name: `greet ${name}` }]);
  await db.close();
});
