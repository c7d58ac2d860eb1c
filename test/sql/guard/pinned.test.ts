import { expect } from "vitest";
import { testBeside as test } from "../../support/database.ts";
import { chosen, giveToKeeper, guardsFor, migrate, outcomeFor, shapesFor } from "./matrix.ts";
import { migrations } from "./migrations.ts";

test("what becomes of each migration where there are only pins", { timeout: 900_000 }, async ({ db }) => {
  await giveToKeeper(db);

  for (const [place, [name, migration]] of chosen(migrations).entries()) {
    for (const guard of guardsFor(place, "pinned")) {
      for (const shape of shapesFor(guard, place)) {
        const outcome = await migrate(db, migration, { guard, shape, publisher: "keeper" });
        expect.soft(outcome, `${name}, ${guard}, ${shape}`).toBe(outcomeFor(migration.pinned, guard));
      }
    }
  }

  expect(await db.query("select * from notika.guard_pending")).toEqual([]);
});
