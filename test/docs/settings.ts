/** What the blocks of a page take for granted. */
export interface Setting {
  /** SQL before its blocks of SQL. */
  sql?: string;
  /** SQL in a database of its own, before its commands. */
  database?: string;
  /** Files of the folder in which its commands run. */
  files?: Record<string, string>;
  /** What the commands print. */
  prints?: RegExp;
  /** The file that has the test of its commands, where they need more than an embedded Postgres. */
  commandsIn?: string;
}

const users = `
  create schema app;
  create table app.users (id bigint primary key, email text);
  select notika.publish('welcome_email', 'app.users', columns => '{id,email}', condition => 'new.email is not null');`;

/** With one run that has failed, number 42. */
const past = `
  ${users}
  insert into app.users select n, 'user' from generate_series(1, 42) as n;
  select notika.dispatch();
  select notika._finish('[{"run_id": 42, "workflow": "welcome_email", "state": "failed", "attempts": 1}]');`;

const task = `export default { on: { table: "app.users", columns: ["id", "email"] }, run() {} };`;

export const settings: Record<string, Setting> = {
  "README.md": { commandsIn: "test/server/docs.test.ts" },
  "CONTRIBUTING.md": { commandsIn: "test/docs/text.test.ts" },
  "docs/comparison.md": {},
  "docs/connect.md": {
    sql: "create role app_admin; create role robot; create role support; create role watchman;",
    commandsIn: "test/server/docs.test.ts",
  },
  "docs/copies.md": {
    sql: `
      ${users}
      create subscription shop connection 'dbname=none' publication shop
        with (connect = false, enabled = false, slot_name = none, create_slot = false);`,
  },
  "docs/deploy.md": {
    database: users,
    files: { "tasks/welcome_email.mjs": task },
    prints: /welcome_email +app\.users +changed\n/,
  },
  "docs/design.md": {},
  "docs/errors.md": {},
  "docs/operate.md": {
    sql: past,
    database: past,
    files: { "tasks/welcome_email.mjs": task },
    prints: /welcome_email.*"run":"42"/s,
  },
  "docs/order-and-limits.md": { sql: users },
  "docs/performance.md": { commandsIn: "test/bench/bench.test.ts" },
  "docs/publish.md": { sql: "create schema app; create table app.users (id bigint primary key, email text);" },
  "docs/reference.md": {},
  "docs/schema-changes.md": {
    sql: users,
    database: users,
    files: {
      "schema.sql": "create schema app; create table app.users (id bigint primary key, email text);",
      "migrations/0042.sql": "alter table app.users add column name text;",
      "tasks/welcome_email.mjs": task,
    },
    prints: /^no workflow is affected\n$/,
  },
  "docs/security.md": {
    sql: `
      ${users}
      create role app_admin; create role robot; create role support; create role watchman;
      begin;
      select notika.allow_breaking_change('welcome_email', 'mails are sent by the shop now');
      alter table app.users drop column email;
      commit;`,
    files: {
      "schema.sql": "create schema app; create table app.users (id int primary key, email text);",
      "migrations/0042.sql": "alter table app.users add column name text;",
      "trusted/tasks/welcome_email.mjs": task,
    },
    prints: /^no workflow is affected\n$/,
  },
  "docs/starting.md": {
    sql: `${users} insert into app.users values (7, 'ada@example.com'); select notika.dispatch();`,
  },
  "docs/tasks.md": {},
  "docs/testing.md": {},
  "docs/tutorial.md": {
    commandsIn: "test/runner/dev.test.ts",
  },
  "docs/waiting.md": {
    sql: `
      create schema app;
      create table app.carts (id int primary key, email text);
      create table app.orders (cart_id int, total int);
      select notika.publish('reminder', 'app.carts', columns => '{id,email}');`,
  },
};

export function settingOf(page: string): Setting {
  const setting = settings[page];
  if (!setting) throw new Error(`settings.ts has to say what ${page} takes for granted`);
  return setting;
}
