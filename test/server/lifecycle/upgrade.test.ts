import { execFile } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Database, openDatabase } from "../../../runner/database.ts";
import { install } from "../../../runner/install.ts";
import { createRunner } from "../../../runner/runner.ts";
import { start } from "../../runner/process.ts";
import { nextRelease } from "../../support/next_release.ts";
import { findProgram, startPostgres } from "../../support/postgres.ts";

const run = promisify(execFile);
let server: Awaited<ReturnType<typeof startPostgres>>;
let next: Awaited<ReturnType<typeof nextRelease>>;
beforeAll(async () => {
  [server, next] = await Promise.all([startPostgres({ major: 18 }), nextRelease()]);
});
afterAll(async () => {
  await Promise.all([server?.stop(), next?.close()]);
});

/** A database that this version has been used in. */
async function inUse() {
  const url = await server.createDatabase();
  const database = openDatabase({ connect: url });
  await install(database);
  await database.script(`
    create schema app;
    create table app.users (id int generated always as identity primary key, email text);
    create table app.orders (id int generated always as identity, user_id int, primary key (id, user_id))
      partition by hash (user_id);
    create table app.orders_0 partition of app.orders for values with (modulus 2, remainder 0);
    create table app.orders_1 partition of app.orders for values with (modulus 2, remainder 1);
    create table app.items (id int generated always as identity primary key, note text);
    create table public.done (workflow text, run_id bigint, what text);
    select notika.publish('welcome', 'app.users', '{insert,update}', '{id,email}', condition => 'new.email is not null'),
           notika.publish('ship', 'app.orders', options => '{"order": "user_id"}'),
           notika.publish('count', 'app.items', options => '{"concurrency": 3}'),
           notika.publish('sleep', 'app.users', '{insert}', '{id}', condition => 'new.email = ''sleeper'''),
           notika.publish('retry', 'app.users', '{insert}', '{id}', condition => 'new.email = ''retrier''')`);
  return { url, database };
}

const log = () => {
  const said: string[] = [];
  const say = (message: string, fields?: object) => void said.push(`${message} ${JSON.stringify(fields ?? {})}`);
  return { said, info: say, warn: say, error: say };
};

const note = (workflow: string) => ({
  // biome-ignore lint/suspicious/noExplicitAny: what a task is given
  async run({ event, query }: any) {
    await query({ text: "insert into public.done values ($1, $2, 'ran')", values: [workflow, event.id] });
  },
});

describe("an upgrade to a version with another migration, other code and other triggers", () => {
  test("fails no write, keeps none waiting and loses nothing while everything goes on", async () => {
    const { url, database } = await inUse();
    const [failures, waits]: [string[], number[]] = [[], []];
    let isWriting = true;
    const write = async (statement: (turn: number) => string) => {
      const session = openDatabase({ connect: url, connections: 1 });
      for (let turn = 1; isWriting; turn++) {
        const began = performance.now();
        await session.script(statement(turn)).catch((error) => failures.push(error.message));
        waits.push(performance.now() - began);
        await sleep(2);
      }
      await session.close();
    };
    const writers = [
      write((turn) => `insert into app.users (email) values ('user ${turn}')`),
      write((turn) => `update app.users set email = 'changed ${turn}' where id = ${1 + (turn % 7)}`),
      write((turn) => `begin; insert into app.orders (user_id) values (${turn % 5}); select pg_sleep(0.02); commit`),
      write(() => "insert into app.items (note) select 'n' from generate_series(1, 20)"),
    ];
    const old = log();
    const runner = await createRunner({
      url,
      log: old,
      tasks: Object.fromEntries(["welcome", "ship", "count"].map((name) => [name, note(name)])),
    });
    await database.script(`
      insert into app.users (email) select 'sleeper' from generate_series(1, 20);
      insert into app.users (email) select 'retrier' from generate_series(1, 20)`);
    await sleep(1000);
    waits.length = 0;

    const { code, stderr, stdout } = await start([...next.command, "upgrade", "--url", url, "--json"], process.cwd())
      .ended;
    await sleep(500);
    isWriting = false;
    await Promise.all(writers);
    await runner.stop();

    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(JSON.parse(stdout)).toMatchObject({ applied: ["000002-later"] });
    expect(failures).toEqual([]);
    expect(Math.max(...waits)).toBeLessThan(600);
    expect(await database.execute(outdated)).toEqual([]);
    expect(
      await database.execute(
        statement("select count(*)::int from pg_proc where proname ~ '^_capture_[0-9]' and prosrc ~ 'v_later'"),
      ),
    ).toEqual([{ count: 5 }]);
  });
});

const statement = (text: string) => ({ text, values: [], sql: text, strings: [text] }) as never;
const outdated = statement("select * from notika.health where finding = 'outdated'");
