import { describe, expect, test } from "vitest";
import { readScript } from "../../runner/embedded/psql_script.ts";

const statements = (script: string) => readScript(script).statements.map(({ line, text }) => `${line}: ${text}`);

describe("a script for psql", () => {
  test("has its statements and their lines", () => {
    expect(
      statements(`-- a; comment
select 1; select ';', "a;b", 'it''s;', E'\\';', $$;$$, $x$ $$; $x$, $1;
/* ; /* ; */ ; */ create rule r as on insert to t do also (select 1; select 2);
create function f() returns int language sql begin atomic select case when true then 1 end; select 2; end;
create or replace procedure "begin"() language sql begin atomic select 1; end;
begin; select 'end'; end;
select 3`),
    ).toEqual([
      "2: select 1",
      `2: select ';', "a;b", 'it''s;', E'\\';', $$;$$, $x$ $$; $x$, $1`,
      "3: create rule r as on insert to t do also (select 1; select 2)",
      "4: create function f() returns int language sql begin atomic select case when true then 1 end; select 2; end",
      `5: create or replace procedure "begin"() language sql begin atomic select 1; end`,
      "6: begin",
      "6: select 'end'",
      "6: end",
      "7: select 3",
    ]);
  });

  test("leaves out rows and what only psql understands, and keeps the lines", () => {
    const script = [
      "\\restrict x;y",
      "copy app.users (id, name) from stdin;",
      "1\t'; drop table users;",
      "2\t\\\\.",
      "\\.",
      "select 1",
      "\\g",
      "\\connect -reuse-previous=on \"dbname='shop'\"",
      "select 2 \\gexec",
      "\\i other.sql",
      "select 3;",
      "\\unrestrict x;y",
    ];
    for (const end of ["\n", "\r\n"]) {
      const { statements, sql, commands } = readScript(script.join(end));

      expect(statements.map(({ line, text, database }) => [line, text, database])).toEqual([
        [2, "copy app.users (id, name) from stdin", undefined],
        [6, "select 1", undefined],
        [11, "select 3", "shop"],
      ]);
      expect(sql.split("\n")).toHaveLength(script.length);
      expect(sql).not.toMatch(/\\|drop/);
      expect(commands).toEqual([
        { line: 9, text: "\\gexec" },
        { line: 10, text: "\\i other.sql" },
      ]);
    }
  });

  test("has its variables in it", () => {
    expect(
      statements(`\\set app 'my app'
\\set n 7
create table :"app".t (a text default :'app', b int default :n, c int default ':n', d text default 'x'::text);
select a[1:n], :other, :'other';
\\unset n
select :n`),
    ).toEqual([
      `3: create table "my app".t (a text default 'my app', b int default 7, c int default ':n', d text default 'x'::text)`,
      "4: select a[1:n], :other, :'other'".replace("1:n", "17"), // as psql does
      "6: select :n",
    ]);
  });

  test("says what stands in it when backslashes are escapes", () => {
    expect(statements("set standard_conforming_strings = off; select '\\'; select 1;'; select 2")).toEqual([
      "1: set standard_conforming_strings = off",
      "1: select '\\'; select 1;'",
      "1: select 2",
    ]);
  });

  test.for([
    "select 'x",
    'select "x',
    "select $$x",
    "/* x",
    "select (1; 2",
    "\\",
    "--",
    "copy t from stdin;\nx",
    "$",
    ":",
  ])("ends with itself: %s", (script) => {
    expect(statements(script).length).toBeLessThan(2);
  });

  test("commits each statement that stands alone", () => {
    expect(readScript("select 1;\nbegin; select 2; commit;\nselect 3", { commitsEach: true }).sql).toBe(
      "select 1; commit;\nbegin; select 2; commit;\nselect 3",
    );
  });
});
