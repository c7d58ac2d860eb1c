import { describe, expect } from "vitest";
import { isSince, type Scene, some, test } from "./scene.ts";

const workflows = (scene: Scene) =>
  scene.as("postgres", "select workflow, table_name, published_by from notika.workflows order by workflow");

/** A function of a publisher's, with his rights, that publishes another's table. */
const deputy = (role: string, call: string, security = "definer") => `
  create schema if not exists pubs authorization ${role};
  grant usage on schema pubs to public;
  set role ${role};
  create function pubs.report() returns text language plpgsql security ${security} as $f$ begin ${call}; return 'done'; end $f$;
  reset role;`;
const leak = "perform notika.publish('leak', 'hr.salaries', columns => '{id,amount}')";

describe("S7: who calls is who has the rights, not who is near", () => {
  for (const kind of some(1)) {
    for (const victim of ["postgres", "hr", "owner"]) {
      test(`a publisher's function publishes nothing more when ${victim} calls it (by ${kind})`, async ({ open }) => {
        const scene = await open(kind);
        await scene.as("postgres", deputy("pub", leak));
        const role = victim === "owner" ? await scene.owner() : victim;

        const refusal = await scene.attempt(role, "select pubs.report()");
        const inView = await scene.attempt(role, "begin; create temp table t as select pubs.report(); commit");

        expect([refusal, inView].map((it) => it?.code)).toEqual(["42501", "42501"]);
        expect(await workflows(scene)).toEqual([]);
      });
    }

    for (const security of isSince(18) ? ["definer", "invoker"] : ["definer"]) {
      // Before version 18 a trigger in a cascade ran as who deleted: a rule of Postgres' own.
      test(`nor a trigger of his in a cascade, as ${security} (by ${kind})`, async ({ open }) => {
        const scene = await open(kind);
        await scene.as("postgres", deputy("pub", leak, security));
        await scene.as(
          "pub",
          `create table pubs.child (id bigint references app.parent on delete cascade);
           insert into pubs.child values (1);
           create function pubs.t() returns trigger language plpgsql security ${security} as 'begin perform pubs.report(); return null; end';
           create trigger t after delete on pubs.child for each row execute function pubs.t()`,
        );

        await scene.attempt("postgres", "delete from app.parent where id = 1");

        expect(await workflows(scene)).toEqual([]);
      });
    }

    test(`and what it does publish is its owner's, whoever called (by ${kind})`, async ({ open }) => {
      const scene = await open(kind);
      await scene.as("postgres", deputy("pub", "perform notika.publish('mine', 'app.users', columns => '{id}')"));

      await scene.as("postgres", "select pubs.report()");

      expect(await workflows(scene)).toEqual([{ workflow: "mine", table_name: "app.users", published_by: "pub" }]);
    });

    test(`others are let through by nobody but who may (by ${kind})`, async ({ open }) => {
      const scene = await open(kind);
      await scene.as("postgres", "select notika.publish('pay', 'hr.salaries', columns => '{id,amount}')");
      for (const [n, call] of [
        "perform notika.allow_breaking_change('pay', 'x')",
        "perform notika.release('pay', 'x')",
        "perform notika.unpublish('pay')",
        "perform notika.publish('pay', 'app.users', columns => '{id}')",
        "perform notika.configure('pay', '{}')",
        "perform notika.grant_reader('pub')",
        "perform notika.uninstall()",
      ].entries()) {
        await scene.as("postgres", deputy("pub", call).replaceAll("report", `report_${n}`));

        const refusal = await scene.attempt("postgres", `select pubs.report_${n}()`);
        expect({ call, code: refusal?.code }).toEqual({ call, code: "42501" });
      }
    });

    test(`a function without rights of its own has those of its caller (by ${kind})`, async ({ open }) => {
      const scene = await open(kind);
      await scene.as("postgres", deputy("pub", leak, "invoker"));

      expect(await scene.attempt("pub", "select pubs.report()")).toMatchObject({ code: "42501" });
      expect(await scene.attempt("postgres", "select pubs.report()")).toBeUndefined(); // a rule of Postgres' own
    });
  }
});

/** What a publisher may ask for about a workflow, and what a runner. */
const changes = {
  unpublish: "select notika.unpublish('victim')",
  "publish on another table": "select notika.publish('victim', 'app.users', columns => '{id}')",
  "publish with other columns": "select notika.publish('victim', 'app.orders', columns => '{id}')",
  "publish another operation":
    "select notika.publish('victim', 'app.orders', operations => '{delete}', columns => '{id,note}')",
  configure: `select notika.configure('victim', '{"concurrency": 5}')`,
  schedule: "select notika.schedule('victim', '@daily')",
  unschedule: "select notika.unschedule('victim')",
  release: "select notika.release('victim', 'x')",
  allow: "select notika.allow_breaking_change('victim', 'x')",
  pause: "select notika.pause('victim')",
  resume: "select notika.resume('victim')",
};

describe("S13: a workflow is changed by who published it, who owns its table, and Notika's owner", () => {
  for (const kind of some(2)) {
    test(`and by no other publisher (by ${kind})`, async ({ open }) => {
      const scene = await open(kind);
      await prepared(scene);
      const before = await scene.as("postgres", "select * from notika.workflows");

      const may: string[] = [];
      for (const [name, sql] of Object.entries(changes)) {
        const refusal = await scene.attempt("pub", `begin; ${sql}; rollback`);
        if (refusal?.code !== "42501") may.push(`${name}: ${refusal?.message ?? "done"}`);
      }

      expect(may).toEqual([]);
      expect(await scene.as("postgres", "select * from notika.workflows")).toEqual(before);
    });

    for (const role of ["publisher", "appowner", "owner", "postgres"]) {
      test(`but by ${role} (by ${kind})`, async ({ open }) => {
        const scene = await open(kind);
        await prepared(scene);
        const name = role === "owner" ? await scene.owner() : role;

        const refused: string[] = [];
        for (const [what, sql] of Object.entries(changes)) {
          const refusal = await scene.attempt(name, `begin; ${sql}; rollback`);
          if (refusal?.code === "42501" && !what.includes("another table")) refused.push(`${what}: ${refusal.message}`);
        }
        expect(refused).toEqual([]);
      });
    }
  }

  async function prepared(scene: Scene) {
    await scene.as(
      "postgres",
      `create role publisher login;
       set role appowner; create table app.orders (id bigint primary key, note text);
       grant select, trigger on app.orders to publisher, pub; reset role;
       grant create on schema app to publisher`,
    );
    await scene.as("postgres", "select notika.grant_publisher('publisher'), notika.grant_publisher('appowner')");
    await scene.as("publisher", "select notika.publish('victim', 'app.orders', columns => '{id,note}')");
  }
});

describe("S21: a request is for the verb that was called", () => {
  for (const kind of some(3)) {
    test(`and nobody asks for one that is not his (by ${kind})`, async ({ open }) => {
      const scene = await open(kind);
      await scene.as("postgres", "select notika.publish('w', 'hr.salaries', columns => '{id}')");
      const verbs = await scene.as<{ name: string }>(
        "postgres",
        "select distinct proname::text as name from pg_proc where pronamespace = 'notika'::regnamespace and proname ~ '^[a-z]'",
      );
      const state = () =>
        scene.as(
          "postgres",
          `select (select json_agg(g order by g.role_name, g.part) from (select role_name, part from notika.grantee) as g) as grantees,
                  (select json_agg(w.*) from notika.workflows as w) as workflows,
                  (select count(*)::int from notika.event_log) as events`,
        );
      const before = await state();

      for (const role of ["pub", "runnerrole", "readerrole", "appowner", "appwriter"]) {
        for (const { insert, caller } of await insertable(scene, role)) {
          for (const { name } of verbs) {
            if (await mayExecute(scene, role, name)) continue;
            for (const args of [`{"role": "${role}"}`, `["${role}"]`, `{"workflow": "w"}`, "{}", '["w"]']) {
              const refusal = await scene.attempt(role, insert(name, args));
              expect({ role, name, refused: Boolean(refusal) }).toEqual({ role, name, refused: true });
            }
          }
          expect(await scene.attempt(role, caller("postgres"))).toMatchObject({ code: "42501" });
        }
      }
      expect(await state()).toEqual(before);
    });

    test(`and what only reads needs no request: it works in a transaction that only reads (by ${kind})`, async ({
      open,
    }) => {
      const scene = await open(kind);
      for (const [role, sql] of [
        ["pub", "select * from notika.workflows"],
        ["runnerrole", "select * from notika.health"],
        ["readerrole", "select * from notika.runs"],
        ["readerrole", "select * from notika.lag"],
        ["readerrole", "select * from notika.event_log"],
        ["readerrole", "select * from notika.history('w')"],
        ["pub", "select notika.version()"],
      ] as const) {
        const refusal = await scene.attempt(role, `begin read only; ${sql}; commit`);
        if (refusal?.code !== "42883") expect({ sql, refusal }).toEqual({ sql, refusal: undefined });
      }
    });
  }

  async function mayExecute(scene: Scene, role: string, name: string) {
    const rows = await scene.as(
      "postgres",
      `select from pg_proc where pronamespace = 'notika'::regnamespace and proname = '${name}' and has_function_privilege('${role}', oid, 'execute')`,
    );
    return rows.length > 0;
  }

  /** Into what a role may insert, with which columns; a request has a verb and its arguments. */
  async function insertable(scene: Scene, role: string) {
    const rows = await scene.as<{ relation: string; columns: { name: string; type: string; may: boolean }[] }>(
      "postgres",
      `select c.oid::regclass::text as relation,
              json_agg(json_build_object('name', a.attname, 'type', a.atttypid::regtype, 'may', has_column_privilege('${role}', c.oid, a.attnum, 'insert')) order by a.attnum) as columns
         from pg_class as c join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'notika'::regnamespace and c.relkind in ('r', 'v')
          and has_any_column_privilege('${role}', c.oid, 'insert')
        group by c.oid`,
    );
    return rows.map(({ relation, columns }) => {
      const open = columns.filter(({ may }) => may);
      const literal = (type: string, verb: string, args: string) => (/json/.test(type) ? `'${args}'` : `'${verb}'`);
      return {
        insert: (verb: string, args: string) =>
          `insert into ${relation} (${open.map(({ name }) => name)}) values (${open.map(({ type }) => literal(type, verb, args))})`,
        caller: (name: string) => {
          const closed = columns.find(({ may, type }) => !may && /name|oid|regrole|text/.test(type))?.name ?? "caller";
          return `insert into ${relation} (${closed}) values ('${name}')`;
        },
      };
    });
  }
});
