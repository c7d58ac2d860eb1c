import { execFileSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import sql from "sql-template-tag";
import { expect, test } from "vitest";
import { openDatabase } from "../../runner/database/database.ts";
import type { Major } from "../support/binaries.ts";
import { installed, startInstalled } from "../support/installed.ts";

const checker = plpgsqlCheck();

test("plpgsql_check finds nothing wrong inside the functions", async ({ skip, onTestFinished }) => {
  if (!checker) return skip("this machine has no plpgsql_check (on Debian: postgresql-15-plpgsql-check)");
  const server = await startInstalled({ major: checker.major });
  onTestFinished(() => server.stop());
  const database = openDatabase({ connect: await server.createDatabase(undefined, installed) });
  onTestFinished(() => database.close());
  await database.script(checker.script);

  const findings = await database.execute(sql`
    select distinct function.oid::regprocedure::text as function, lineno, level, message, context
      from pg_proc as function
      join pg_language as language on language.oid = prolang and lanname = 'plpgsql'
      left join pg_trigger as trigger on tgfoid = function.oid,
           -- The one that takes any element comes to its array, too.
           plpgsql_check_function_tb(function.oid, coalesce(tgrelid, 0), performance_warnings => false,
                                     anyelememttype => case proname when '_json_value' then 'int[]' else 'int' end::regtype
           ) as finding
     where pronamespace = 'notika'::regnamespace
       and message !~ '^composite OUT variable "\\w+" is not single argument$' -- which is what is meant
       and (prorettype <> 'trigger'::regtype or tgrelid is not null)
     order by function, lineno`);

  expect(findings).toEqual([]);
});

/** The plpgsql_check of this machine's own Postgres, as SQL that any server of the same version can run. */
function plpgsqlCheck(): { major: Major; script: string } | undefined {
  const configured = (flag: string) => execFileSync("pg_config", [flag], { encoding: "utf8", stdio: "pipe" }).trim();
  try {
    const major = Number(configured("--version").match(/\d+/)?.[0]) as Major;
    const folder = join(configured("--sharedir"), "extension");
    const file = readdirSync(folder).find((name) => /^plpgsql_check--[\d.]+\.sql$/.test(name));
    const library = join(configured("--pkglibdir"), "plpgsql_check.so");
    if (!file || !existsSync(library)) return undefined;
    const script = readFileSync(join(folder, file), "utf8").replace(/^\\echo.*$/m, "");
    return { major, script: script.replaceAll("MODULE_PATHNAME", library).replaceAll("@extschema@", "public") };
  } catch {
    return undefined; // there is no Postgres
  }
}
