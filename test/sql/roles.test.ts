import { describe, expect } from "vitest";
import { readCode } from "../../runner/install/migrations.ts";
import { catalog } from "../migrations/catalog.ts";
import { testBeside as test } from "../support/database.ts";
import { asRole, undone } from "./support.ts";

/** Three roles, one of each kind, a table of somebody else's, and an event with a secret in it. */
const scene = `
  create role pat; create role rex; create role ria; create role app_owner;
  create schema app authorization app_owner;
  set role app_owner;
  create table app.users (id int primary key, email text);
  create table app.secrets (id int primary key, secret text);
  grant usage on schema app to pat, rex, ria, notika;
  grant select, trigger on app.users to pat, notika;
  reset role;
  select notika.grant_publisher('pat');
  select notika.grant_runner('rex');
  select notika.grant_reader('ria');
  set role pat;
  select notika.publish('w', 'app.users', '{insert,update}');
  reset role;
  insert into app.users values (1, 'ada@example.com'), (2, 'bob@example.com');`;

const verbs = {
  publish: "select notika.publish('v', 'app.users', '{insert}', '{id}')",
  plan: "select * from notika.plan('v', 'app.users', '{insert}', '{id}')",
  unpublish: "select notika.unpublish('w')",
  check: "select * from notika.check()",
  check_ddl: "select * from notika.check_ddl('select 1')",
  emit: `select notika.emit('w', '{"id": 7}')`,
  pause: "select notika.pause('w')",
  resume: "select notika.resume('w')",
  dispatch: "select notika.dispatch()",
  maintain: "select notika.maintain()",
  retry: "select notika.retry(2)",
  cancel: "select notika.cancel(1)",
  finish: `select notika._finish('[{"run_id": 1, "workflow": "w", "state": "done", "attempts": 1}]')`,
  beat: "select notika._beat('x', 'host', 1, '{w}')",
  leave: "select notika._leave('x')",
  "work off a job": "update notika_worker._private_jobs set attempts = 1 where key = '1'",
  "add a job": "select notika_worker.add_job('w')",
  "see workflows": "select * from notika.workflows",
  "see health": "select * from notika.health",
  "see the lag": "select * from notika.lag",
  "see runs": "select event from notika.runs",
  "see the log": "select new, old from notika.event_log",
  "see a segment": "select new from notika.event_log_0",
  "see outcomes": "select event, error from notika.run_log",
  "see jobs": "select payload from notika_worker._private_jobs",
  "see the guard's log": "select statement from notika.guard_log",
  "change settings": "update notika.setting set max_attempts = 1",
  "change the contract": "update notika.workflow set condition = null",
  "append to the log": "insert into notika.event_log_0 (workflow_id, operation) values (1, 'insert')",
  "call a payload function": "select notika._payload(null, '', '')",
  "make a trigger of a capture function":
    "create temp table t (id int, email text); create trigger t after insert on t execute function notika._capture_1()",
  install: "select notika.install()",
  uninstall: "select notika.uninstall()",
  "grant a part": "select notika.grant_reader('pat')",
  "revoke a part": "select notika.revoke_reader('ria')",
};

const fromTheStart = [{ role_name: "pg_monitor", part: "monitor" }];

describe("publishers, runners and readers", () => {
  test("may do what is theirs, and nothing of the others'", async ({ db }) => {
    await db.script(scene);
    await db.query("select notika.dispatch(1)");
    await db.script(`
      insert into notika.run_log (run_id, workflow, state, attempts, event)
      values (2, 'w', 'failed', 1, '{"id": "2"}')`);
    const may = async (role: string) => {
      const able: string[] = [];
      for (const [name, statements] of Object.entries(verbs)) {
        await undone(db, `set local role ${role}`, ...statements.split("; ")).then(
          () => able.push(name),
          (error) => expect(error, `${role} ${name}`).toMatchObject({ code: "42501" }),
        );
      }
      return able;
    };

    expect(await may("pat")).toEqual([
      ...["publish", "plan", "unpublish", "check", "check_ddl", "emit", "pause", "resume"],
      ...["retry", "cancel", "see workflows", "see health"],
    ]);
    expect(await may("rex")).toEqual([
      ...["check", "emit", "pause", "resume", "dispatch", "maintain", "retry", "cancel", "finish", "beat", "leave"],
      ...["work off a job", "add a job", "see workflows", "see health", "see jobs"],
    ]);
    expect(await may("ria")).toEqual([
      ...["see workflows", "see health", "see the lag", "see runs", "see the log", "see outcomes"],
      ...["see the guard's log", "call a payload function"],
    ]);
  });

  test("see rows, not only the tables they are in", async ({ db }) => {
    await db.script(scene);
    await db.query("select notika.dispatch(1)");

    expect(await asRole(db, "ria", "select count(*)::int from notika.runs")).toEqual([{ count: 2 }]);
    expect(await asRole(db, "ria", "select new ->> 'email' as email from notika.event_log order by event_id")).toEqual([
      { email: "ada@example.com" },
      { email: "bob@example.com" },
    ]);
    expect(await asRole(db, "ria", "select events_waiting::int, blocked_by from notika.lag")).toEqual([
      { events_waiting: 1, blocked_by: null },
    ]);
    expect(await asRole(db, "rex", "select count(*)::int from notika_worker._private_jobs")).toEqual([{ count: 1 }]);
  });

  test("lose what is revoked, keep what they are besides, and can be dropped then", async ({ db }) => {
    await db.script(scene);
    await db.script("select notika.grant_reader('pat'), notika.grant_reader('rex')");

    await db.script("select notika.revoke_reader('pat'), notika.revoke_runner('rex')");

    await expect(asRole(db, "pat", "select from notika.runs")).rejects.toMatchObject({ code: "42501" });
    await asRole(db, "pat", "select from notika.workflows");
    await expect(asRole(db, "rex", "select notika.dispatch()")).rejects.toMatchObject({ code: "42501" });
    await asRole(db, "rex", "select from notika.runs");
    await db.script(`
      select notika.revoke_publisher('pat'), notika.revoke_reader('rex'), notika.revoke_reader('ria');
      select notika.revoke_reader('ria');
      drop owned by pat, rex, ria; drop role pat; drop role rex; drop role ria`);
    expect(await db.query("select * from pg_policy")).toEqual([]);
    expect(await db.query("select role_name, part from notika.grantee")).toEqual(fromTheStart);
  });

  test("are not made of the owner, of nobody, or of a role that does not exist", async ({ db }) => {
    const [owner] = await db.query<{ name: string }>(
      "select nspowner::regrole::text as name from pg_namespace where nspname = 'notika'",
    );

    for (const part of ["publisher", "runner", "reader"]) {
      await expect(db.query(`select notika.grant_${part}('${owner?.name}')`)).rejects.toMatchObject({
        code: "0LP01",
        message: `role ${owner?.name} owns notika and cannot be made a ${part}`,
        detail: "The owner has all of these rights.",
        hint: `Name another role: select notika.grant_${part}('<role>');`,
      });
      await expect(db.query(`select notika.grant_${part}(null)`)).rejects.toMatchObject({
        code: "22004",
        message: "no role was named",
        hint: `For example: select notika.grant_${part}('<role>');`,
      });
      await expect(db.query(`select notika.grant_${part}('nobody_at_all')`)).rejects.toMatchObject({ code: "42704" });
    }
  });

  test("may have names that need quoting", async ({ db }) => {
    await db.script(`create role "Ada ""x"" 'y'"; create role "select"`);

    await db.query(`select notika.grant_runner('"Ada ""x"" ''y''"'), notika.grant_runner('"select"')`);

    for (const role of [`Ada ""x"" 'y'`, "select"]) await asRole(db, role, "select notika.dispatch()");
  });
});

describe("after an upgrade", () => {
  test("everybody has exactly the rights of before, also on functions that were made anew", async ({ db }) => {
    await db.script(scene);
    const before = await catalog(db.database.execute);

    await db.script(`
      drop function notika.publish(text, text, text[], text[], text[], text, text, text, jsonb, text[]);
      drop function notika._finish(json);
      drop view notika.lag cascade;
      drop policy notika_runner on notika_worker._private_jobs;
      grant execute on function notika.cancel(bigint) to pat`);
    await db.script(`set role notika; ${await readCode()}; reset role`);
    const steps = await db.query("select * from notika.install() where step like 'role %'");

    expect(steps).toEqual([
      { step: "role pat", outcome: "repaired", detail: "publisher" },
      { step: "role pg_monitor", outcome: "repaired", detail: "monitor" },
      { step: "role rex", outcome: "repaired", detail: "runner" },
      { step: "role ria", outcome: "repaired", detail: "reader" },
    ]);
    expect(await catalog(db.database.execute)).toEqual(before);
    expect(await db.query("select distinct outcome from notika.install() where step like 'role %'")).toEqual([
      { outcome: "ok" },
    ]);
  });

  test("a role that was dropped in the meantime is forgotten", async ({ db }) => {
    await db.script(`create role pat; select notika.grant_publisher('pat'); drop owned by pat; drop role pat`);

    expect(await db.query("select * from notika.install() where step like 'role %'")).toEqual([
      { step: "role pg_monitor", outcome: "ok", detail: "monitor" },
    ]);

    expect(await db.query("select role_name, part from notika.grantee")).toEqual(fromTheStart);
  });

  test("a restored copy finds its roles by their names, and forgets those that are not there", async ({ db }) => {
    await db.script(`${scene}
      alter role ria rename to maria;
      select notika.grant_publisher('maria');
      update notika.grantee set role_name = 'maria' where role_name = 'ria'`);
    const before = await catalog(db.database.execute);

    // What a restore into another cluster leaves.
    await db.script(`
      update notika.grantee set role_id = role_id::bigint + 100000;
      insert into notika.grantee (role_id, role_name, part) values ('rex'::regrole, 'someone', 'publisher');
      update notika.guard_state set workflow_table = 1`);
    await db.query("select notika.install()");

    expect(await catalog(db.database.execute)).toEqual(before);
    expect(await db.query("select role_name, role_id::regrole::text, part from notika.grantee order by 1, 3")).toEqual([
      { role_name: "maria", role_id: "maria", part: "publisher" },
      { role_name: "maria", role_id: "maria", part: "reader" },
      { role_name: "pat", role_id: "pat", part: "publisher" },
      { role_name: "pg_monitor", role_id: "pg_monitor", part: "monitor" },
      { role_name: "rex", role_id: "rex", part: "runner" },
    ]);
  });

  test("a role that was renamed keeps its rights", async ({ db }) => {
    await db.script(`${scene} alter role ria rename to maria`);

    expect(await db.query("select * from notika.install() where step = 'role maria'")).toEqual([
      { step: "role maria", outcome: "ok", detail: "reader" },
    ]);

    expect(await db.query("select role_name from notika.grantee where part = 'reader'")).toEqual([
      { role_name: "maria" },
    ]);
  });
});
