import { expect } from "vitest";
import { testBeside as test } from "../../support/database.ts";
import { chosen, guardsFor, migrate, outcomeFor, shapesFor } from "./matrix.ts";
import { migrations } from "./migrations.ts";

// One database for all: each migration has a schema for itself.
test("what becomes of each migration where the guard judges at commit", { timeout: 900_000 }, async ({ db }) => {
  for (const [place, [name, migration]] of chosen(migrations).entries()) {
    for (const guard of guardsFor(place, "judged")) {
      for (const shape of shapesFor(guard, place)) {
        const outcome = await migrate(db, migration, { guard, shape });
        expect.soft(outcome, `${name}, ${guard}, ${shape}`).toBe(outcomeFor(migration.judged, guard));
      }
    }
  }

  expect(await db.query("select * from notika.guard_pending")).toEqual([]);
  expect(await db.query("select * from notika.guard_busy")).toEqual([]);
});
