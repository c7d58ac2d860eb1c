import { expect } from "vitest";
import { testBeside as test } from "../../support/database.ts";
import { fuzzing, randomOf } from "../../support/fuzzing.ts";
import { ddlScene, randomDdl } from "./ddl.ts";

const { cases, seed } = fuzzing(60);

/** Whether the guard, or a pin, keeps something. */
const isRefusal = ({ code, message = "", detail = "" }: { code?: string; message?: string; detail?: string }) =>
  code === "NK001" || (["2BP01", "0A000"].includes(code ?? "") && /\bnotika[._]/.test(message + detail));

test("check_ddl says of a migration what becomes of it", { timeout: cases * 1000 }, async ({ db }) => {
  await db.script(ddlScene);
  const random = randomOf(seed);
  const client = await db.database.pool.connect();
  const said = new Map<string, number>();
  const problems: unknown[] = [];
  try {
    await client.query("set client_min_messages = error; set statement_timeout = '20s'");
    for (let i = 0; i < cases; i++) {
      const sql = randomDdl(random);
      const checked = await client.query("select * from notika.check_ddl($1::text)", [sql]).then(
        ({ rows }) => ({ verdicts: rows.map(({ verdict }) => verdict as string), rows }),
        (error) => ({ verdicts: ["failed"], rows: [error.message, error.where] }),
      );

      await client.query("begin");
      const real = await client.query(`${sql}\n;set constraints all immediate`).then(
        () => undefined,
        ({ code, message, detail }) => ({ code, message, detail }),
      );
      await client.query("rollback");

      const verdict = ["failed", "error", "breaks", "unknown"].find((it) => checked.verdicts.includes(it)) ?? "passes";
      const outcome = real === undefined ? "passes" : isRefusal(real) ? "breaks" : "error";
      said.set(verdict, (said.get(verdict) ?? 0) + 1);
      // Sent as one text, none of it runs when some of it is not SQL.
      const isNotRun = real?.code === "42601" && verdict !== "passes";
      if (verdict !== outcome && verdict !== "unknown" && !isNotRun)
        problems.push({ i, seed, sql, verdict, said: checked.rows, outcome, real });
    }
  } finally {
    await client.query("rollback; reset all");
    client.release();
  }

  expect(problems).toEqual([]);
  for (const verdict of ["passes", "breaks", "error"]) expect(said.get(verdict), verdict).toBeGreaterThan(cases / 20);
});
