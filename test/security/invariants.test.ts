import { describe, expect } from "vitest";
import { plant } from "./attack.ts";
import { type Right, rights } from "./rights.ts";
import { type Scene, some, test } from "./scene.ts";

/** A table with a column of every type, published in every way. */
async function publishEverything(scene: Scene) {
  await plant(scene, "appowner");
  await scene.as(
    "appowner",
    `do $do$
     declare
       v_columns text;
     begin
       select string_agg(format('%I %s', 'c_' || t.oid, format_type(t.oid, null)), ', ' order by t.oid) into v_columns
         from pg_type as t
         left join pg_type as e on e.oid = t.typelem and t.typcategory = 'A'
        where t.typnamespace in ('pg_catalog'::regnamespace, 'evil'::regnamespace)
          and coalesce(e.typtype, t.typtype) <> 'p' and t.typtype <> 'p'
          and (coalesce(e.typrelid, t.typrelid) = 0 or t.typnamespace = 'evil'::regnamespace)
          and t.typname !~ '^_?pg_(node|ndist|depend|mcv|dd)' and t.typname not in ('gtsvector', '_gtsvector', 'aclitem', '_aclitem', 'refcursor', '_refcursor');
       execute format('create table app.every (id bigint primary key, note text, "It''s ""x"" %%s" text, %s)', v_columns);
     end $do$;
     create table app.keys (a int, b text, c evil.e, d date, note text, primary key (a, b, c, d));
     create table app.nokey (note text, n numeric);
     create table app.parts (id bigint primary key, note text, doc jsonb) partition by range (id);
     create table app.part partition of app.parts default;
     create table app.parents (id int8 primary key, n numeric);
     create table app.children (more evil.cc, primary key (id)) inherits (app.parents)`,
  );
  const all = await scene.as<{ columns: string }>(
    "postgres",
    "select array_agg(attname order by attnum)::text as columns from pg_attribute where attrelid = 'app.every'::regclass and attnum > 0",
  );
  const every = all[0]?.columns.replaceAll("'", "''");
  const ways = [
    `'app.every', '{insert,update,delete}', '${every}'`,
    `'app.every', '{insert}', '${every}'`,
    `'app.every', '{delete}', '${every}'`,
    "'app.every', '{insert,update,delete}'",
    "'app.every', '{insert}'",
    "'app.every', '{update}', '{note}', watch => '{note,c_20,c_114}', condition => 'new.note is not null'",
    "'app.every', '{insert}', '{note}', condition => 'new.id > 0'",
    "'app.every', '{insert,update,delete}', '{note,c_20}', guard => 'off'",
    "'app.every', '{insert,update}', null, guard => 'off', condition => 'new.id > 0'",
    "'app.every', '{insert}', '{note}', guard => 'warn', on_rename => 'block'",
    "'app.keys', '{insert,update,delete}', '{note}'",
    "'app.keys', '{insert,update,delete}', '{a,b,c,d,note}'",
    "'app.keys', '{update}', null, watch => '{c}'",
    "'app.nokey', '{insert,update,delete}', '{note}'",
    "'app.nokey', '{insert,update,delete}'",
    "'app.parts', '{insert,update,delete}', '{id,note,doc}'",
    "'app.parts', '{insert,update,delete}'",
    "'app.parents', '{insert,update,delete}', '{id,n}'",
    "'app.parents', '{insert,update,delete}'",
  ];
  for (const [n, way] of ways.entries()) await scene.as("postgres", `select notika.publish('w${n}', ${way})`);
  await scene
    .as(
      "postgres",
      "select notika.publish('w1:paid', 'app.keys', '{insert,update}', '{a,b,c,d,note}', match => '{note}')",
    )
    .catch(() => {});
}

/** A cast of a column: `new.x::t`, `(r).x::t`, `((r).x)::t`, `cast(new.x as t)`. */
const casts = [
  /\b(new|old|r|p|changed)\)?\s*\.\s*("(?:[^"]|"")+"|[\w$]+)\s*\)*\s*::\s*[\w".]+/gi,
  /\bcast\s*\(\s*\(*\s*(new|old|r|p|changed)\)?\s*\.[^)]*/gi,
];

describe("what is in the catalog", () => {
  for (const kind of some(0)) {
    test(`no function with its owner's rights is a superuser's (by ${kind})`, async ({ open }) => {
      const scene = await open(kind);
      await publishEverything(scene);

      expect(
        await scene.as(
          "postgres",
          `select p.oid::regprocedure::text as function
             from pg_proc as p join pg_roles as r on r.oid = p.proowner
            where p.pronamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace) and p.prosecdef and r.rolsuper
            limit 5`,
        ),
      ).toEqual([]);
    });

    test(`all that is in Notika's schemas is its owner's, or the guard's entrance (by ${kind})`, async ({ open }) => {
      const scene = await open(kind);
      await publishEverything(scene);
      const owner = await scene.owner();

      const others = await scene.as(
        "postgres",
        `select o.kind, o.name, o.owner
           from (
             select 'function' as kind, oid::regprocedure::text as name, proowner::regrole::text as owner, pronamespace as n, prorettype from pg_proc
             union all select 'relation', oid::regclass::text, relowner::regrole::text, relnamespace, 0 from pg_class
             union all select 'type', oid::regtype::text, typowner::regrole::text, typnamespace, 0 from pg_type
           ) as o
          where o.n in ('notika'::regnamespace, 'notika_worker'::regnamespace) and o.owner <> '${owner}'
            and not (o.owner = 'notika_guard' and o.prorettype = 'event_trigger'::regtype)`,
      );
      expect(others).toEqual([]);
      expect(
        await scene.as("postgres", `select rolname from pg_roles where rolname = '${owner}' and rolsuper`),
      ).toEqual([]);
    });

    test(`the guard's entrance has a role without rights (by ${kind})`, async ({ open, skip }) => {
      if (kind === "owner") skip("there is no event trigger");
      const scene = await open(kind);

      expect(
        await scene.as(
          "postgres",
          `select distinct p.proowner::regrole::text as owner, p.prosecdef, e.evtenabled, r.rolsuper or r.rolcanlogin or r.rolcreaterole or r.rolcreatedb or r.rolbypassrls or r.rolreplication as is_mighty,
                  (select count(*)::int from pg_auth_members as m where r.oid in (m.roleid, m.member)) as memberships
             from pg_event_trigger as e join pg_proc as p on p.oid = e.evtfoid join pg_roles as r on r.oid = p.proowner
            where p.pronamespace = 'notika'::regnamespace`,
        ),
      ).toEqual([{ owner: "notika_guard", prosecdef: true, evtenabled: "A", is_mighty: false, memberships: 0 }]);
    });

    test(`nobody has a right that the list of rights does not give (by ${kind})`, async ({ open }) => {
      const scene = await open(kind);
      await publishEverything(scene);
      await scene.as("postgres", "select notika.publish('pay', 'hr.salaries', columns => '{id}')");

      expect(await undue(scene)).toEqual([]);
      await scene.install();
      expect(await undue(scene)).toEqual([]);
    });

    test(`no function that publish makes casts a column (by ${kind})`, async ({ open }) => {
      const scene = await open(kind);
      await publishEverything(scene);

      const functions = await scene.as<{ name: string; definition: string }>(
        "postgres",
        `select oid::regprocedure::text as name, pg_get_functiondef(oid) as definition from pg_proc
          where pronamespace = 'notika'::regnamespace and proname ~ '^(payload|_capture|_passes)_[0-9]+$'`,
      );
      expect(functions.length).toBeGreaterThan(30);
      const theirs = await scene.as<{ name: string }>(
        "postgres",
        `select distinct attname::text as name from pg_attribute
          where attrelid in (select oid from pg_class where relnamespace = 'app'::regnamespace) and atttypid >= 16384`,
      );
      // What a payload function casts is pinned: of types of Postgres' own it is Postgres' own cast, and where Postgres
      // prints a domain as its base type nothing is called.
      const relabels = await scene.as<{ name: string }>(
        "postgres",
        `select oid::regprocedure::text as name from pg_proc
          where pronamespace = 'notika'::regnamespace and proname ~ '^payload_[0-9]+$'
            and prosqlbody::text !~ '[{](COERCEVIAIO|COERCETODOMAIN|CONVERTROWTYPE)' and prosqlbody::text !~ ':funcformat [12] [^{]*:args [(][{]FIELDSELECT'`,
      );
      const isPinned = (name: string, cast: string) =>
        relabels.some((it) => it.name === name) ||
        (name.startsWith("notika.payload_") && !theirs.some((it) => new RegExp(`\\.\\s*${it.name}\\b`).test(cast)));
      const found = functions.flatMap(({ name, definition }) =>
        casts.flatMap((cast) =>
          [...new Set(definition.match(cast))].filter((it) => !isPinned(name, it)).map((it) => `${name}: ${it}`),
        ),
      );
      expect(found).toEqual([]);
    });
  }

  test("what is to find casts finds them", () => {
    for (const code of [
      "array[new.id::pg_catalog.text]",
      "SELECT (((r).id)::text)",
      'old."It\'s ""x"""::app.t',
      "cast(new.x as text)",
      "cast((r).x as text)",
    ]) {
      expect(
        casts.some((cast) => code.match(cast)),
        code,
      ).toBe(true);
    }
    for (const code of ["v_new::pg_catalog.text", "'x'::text", "pg_catalog.format('%s', new.id)", "(r).id, 5::int"]) {
      expect(
        casts.some((cast) => code.match(cast)),
        code,
      ).toBe(false);
    }
  });
});

/** The rights that are not on the list, and none of the few that publish and install give besides. */
async function undue(scene: Scene) {
  const listed = await scene.as<{ kind: string; name: string; parts: string[] }>(
    "postgres",
    "select kind, name, parts from notika._rights()",
  );
  const grantees = await scene.as<{ role: string; part: string }>(
    "postgres",
    "select role_id::regrole::text as role, part from notika.grantee",
  );
  const owners = await scene.as<{ function: string; owner: string }>(
    "postgres",
    `select distinct t.tgfoid::regprocedure::text as function, c.relowner::regrole::text as owner
       from pg_trigger as t join pg_class as c on c.oid = t.tgrelid
       join pg_proc as p on p.oid = t.tgfoid where p.pronamespace = 'notika'::regnamespace`,
  );
  const partsOf = (role: string) => [
    ...grantees.filter((it) => it.role === role).map(({ part }) => part),
    ...(role === "pg_monitor" ? ["monitor"] : []),
  ];
  const isDue = ({ kind, object, name, schema, grantee, privilege }: Right) => {
    const parts = partsOf(grantee);
    const isListed = (ofFunctions: boolean) =>
      listed.some(
        (it) =>
          (it.kind === "function") === ofFunctions && it.name === name && it.parts.some((part) => parts.includes(part)),
      );
    if (kind === "schema") {
      const guarded = grantee === "notika_guard" && schema === "notika";
      return privilege === "USAGE" && (guarded || (schema === "notika" ? parts.length > 0 : parts.includes("runner")));
    }
    if (schema === "notika_worker") {
      // graphile-worker works as its login does.
      const own = kind === "function" ? ["EXECUTE"] : ["SELECT", "INSERT", "UPDATE", "DELETE"];
      return parts.includes("runner") && own.includes(privilege);
    }
    if (kind === "function") {
      if (privilege !== "EXECUTE") return false;
      if (grantee === "notika_guard" || isListed(true)) return true;
      if (/^_passes_\d+$/.test(name)) return grantee === "public";
      return /^_capture_\d+$/.test(name) && owners.some((it) => it.function === object && it.owner === grantee);
    }
    // A request is inserted: into a view, and into columns.
    return isListed(false) && ["SELECT", "INSERT"].includes(privilege);
  };
  return (await rights(scene))
    .filter((it) => !isDue(it))
    .map(({ object, grantee, privilege }) => `${grantee}: ${privilege} on ${object}`);
}
