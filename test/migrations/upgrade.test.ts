import sql from "sql-template-tag";
import { expect, test } from "vitest";
import { install } from "../../runner/install/install.ts";
import { committedMigrations } from "../../runner/install/migrations.ts";
import { installRelease } from "../support/release.ts";
import { catalog } from "./catalog.ts";
import { openEmpty } from "./empty.ts";

const committed = await committedMigrations();
const releases = committed.map(({ name }, index) => ({ release: name, migrations: committed.slice(0, index + 1) }));

test.each(releases)(
  "an upgrade from $release keeps workflows, events, jobs and outcomes, and captures on",
  async ({ migrations }) => {
    await using database = await openEmpty();
    await using fresh = await openEmpty();
    await installRelease(database, migrations);
    await database.script(`
    create schema app;
    create table app.users (id int primary key, email text);
    select notika.publish('welcome', 'app.users', operations => '{insert,update}', columns => '{id,email}',
                          condition => 'new.email is not null');
    select notika.publish('archive', 'app.users', operations => '{delete}', guard => 'warn');
    alter table app.users rename column email to mail;
    insert into app.users values (1, 'ada'), (2, null), (3, 'eve');
    select notika.dispatch();
    select notika._finish('[{"run_id": 1, "workflow": "welcome", "state": "failed", "attempts": 1, "error": "no answer"}]');
    update app.users set mail = 'eva' where id = 3;
    delete from app.users where id = 2`);

    await install(database);
    await install(fresh);
    await database.script("insert into app.users values (4, 'bob')");
    await database.execute(sql`select notika.dispatch()`);
    await database.execute(sql`select notika.retry(1)`);

    expect(
      await database.execute(sql`
      select run_id::int as run, workflow, state, event -> 'new' as new, event -> 'old' as old
        from notika.runs order by run_id`),
    ).toEqual([
      { run: 1, workflow: "welcome", state: "ready", new: { id: 1, email: "ada" }, old: null },
      { run: 2, workflow: "welcome", state: "ready", new: { id: 3, email: "eve" }, old: null },
      { run: 3, workflow: "welcome", state: "ready", new: { id: 3, email: "eva" }, old: { id: 3, email: "eve" } },
      { run: 4, workflow: "archive", state: "ready", new: null, old: { id: 2, mail: null } },
      { run: 5, workflow: "welcome", state: "ready", new: { id: 4, email: "bob" }, old: null },
    ]);
    expect(await database.execute(sql`select workflow, state from notika.workflows order by workflow`)).toEqual([
      { workflow: "archive", state: "published" },
      { workflow: "welcome", state: "published" },
    ]);
    expect(await database.execute(sql`select * from notika.check() where severity = 'error'`)).toEqual([]);
    await database.script("select notika.unpublish('welcome'), notika.unpublish('archive')");
    expect(await catalog(database.execute)).toEqual(await catalog(fresh.execute));
  },
  90_000,
);
