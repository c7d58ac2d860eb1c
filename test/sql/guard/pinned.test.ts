import { expect } from "vitest";
import { test } from "../../support/database.ts";
import { chosen, giveToKeeper, guards, migrate, outcomeFor } from "./matrix.ts";
import { migrations } from "./migrations.ts";

test("what becomes of each migration where there are only pins", { timeout: 300_000 }, async ({ db }) => {
  await giveToKeeper(db);

  for (const [name, migration] of chosen(migrations)) {
    for (const guard of guards) {
      const outcome = await migrate(db, migration, { guard, shape: "one text", publisher: "keeper" });
      expect.soft(outcome, `${name}, ${guard}`).toBe(outcomeFor(migration.pinned, guard));
    }
  }

  expect(await db.query("select * from notika.guard_pending")).toEqual([]);
});
