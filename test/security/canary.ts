/** Roles that the canary knows; it notes any other as "other". */
const known = [
  ...["postgres", "notika", "notika_guard", "notika_own"],
  ...["pub", "runnerrole", "readerrole", "appowner", "appwriter", "hr", "dbowner"],
];

/**
 * `canary.note()` notes the role that it runs as: in a sequence for each role, which no rollback takes back, and in a warning.
 * What is planted calls it.  A role that was only put aside, for it to come back to, it notes as well.
 */
export const canary = `
  create schema canary;
  grant usage on schema canary to public;
  ${[...known, "other"].map((role) => `create sequence canary.${role};`).join("\n  ")}
  grant usage on all sequences in schema canary to public;
  create function canary.note() returns boolean
    language plpgsql volatile set client_min_messages = warning
  as $canary$
  begin
    perform nextval(coalesce(to_regclass('canary.' || quote_ident(current_user)), 'canary.other'));
    raise warning 'canary: current_user=% session_user=%', current_user, session_user;
    begin
      perform set_config('role', 'none', true);
      perform nextval(coalesce(to_regclass('canary.' || quote_ident(current_user)), 'canary.other'));
    exception when others then
      null; -- it may not
    end;
    return true;
  end;
  $canary$;`;

/** Types, casts, operators and functions that call the canary, in a schema of who makes them; also in pg_temp. */
export const kit = (s: string) => `
  create function ${s}.note(text) returns boolean language plpgsql immutable as 'begin return canary.note(); end';
  create domain ${s}.d as text check (${s}.note(value));
  create domain ${s}.dd as ${s}.d;
  create type ${s}.c as (x ${s}.d);
  create type ${s}.cc as (y ${s}.c, z ${s}.c[]);
  create type ${s}.r as range (subtype = ${s}.d, multirange_type_name = ${s}.mr);
  create domain ${s}.da as ${s}.d[];
  create domain ${s}.dc as ${s}.c;
  create type ${s}.cr as (x ${s}.r, y ${s}.da);

  create type ${s}.e as enum ('a', 'b', 'c');
  create function ${s}.same(text, text) returns boolean language plpgsql immutable as 'begin return canary.note(); end';
  create operator ${s}.=== (function = ${s}.same, leftarg = text, rightarg = text);
  create function ${s}.takes(${s}.d[]) returns boolean language sql immutable as 'select true';
  create function ${s}.same_e(${s}.e, ${s}.e) returns boolean language plpgsql immutable as 'begin return canary.note(); end';
  create operator ${s}.= (function = ${s}.same_e, leftarg = ${s}.e, rightarg = ${s}.e);
  create domain ${s}.de as ${s}.e;
  create type ${s}.ce as (x ${s}.e);
  create type ${s}.er as range (subtype = ${s}.e);
`;

/** Casts of all sorts between the types of schema `s` and what Notika makes of keys and columns. */
export const casts = (s: string) =>
  Object.entries({ e: "e", es: "e[]", ce: "ce", ces: "ce[]", er: "er" })
    .flatMap(([name, type]) => [
      ...["text", "json", "jsonb", "varchar"].map(
        (target) => `
          create function ${s}.${name}_${target}(${s}.${type}) returns ${target} language plpgsql immutable
          as 'begin perform canary.note(); return ''1''; end';
          create cast (${s}.${type} as ${target}) with function ${s}.${name}_${target}(${s}.${type}) as implicit;`,
      ),
      ...["text", "varchar"].map(
        (source) => `
          create function ${s}.${name}_of(${source}) returns ${s}.${type} language plpgsql immutable
          as 'begin perform canary.note(); return null; end';
          create cast (${source} as ${s}.${type}) with function ${s}.${name}_of(${source}) as implicit;`,
      ),
    ])
    .join("\n");
