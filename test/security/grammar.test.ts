import { expect } from "vitest";
import { fuzzing, randomOf } from "../support/fuzzing.ts";
import { keepWatch } from "./attack.ts";
import { kit } from "./canary.ts";
import { randomStory } from "./grammar.ts";
import { kinds, some, test } from "./scene.ts";

const { cases, seed } = fuzzing(24);

// A database has room for so many stories.
const perDatabase = 12;

for (const kind of process.env.NOTIKA_FUZZ_CASES ? kinds : some(seed)) {
  test(`whatever is planted, published and done, nobody runs what is another's (by ${kind})`, {
    timeout: 30_000 + cases * 3000,
  }, async ({ open }) => {
    const random = randomOf(seed);
    const wrong = new Map<string, unknown>();
    const outcomes = { done: 0, refused: 0 };

    for (let first = 0; first < cases; first += perDatabase) {
      const scene = await open(kind);
      await scene.as("postgres", "select notika.grant_publisher('appowner'); grant create on schema app to appowner");
      for (let n = first; n < Math.min(cases, first + perDatabase); n++) {
        const { attacker, plant, steps } = randomStory(random, n);
        await scene.as("postgres", plant);
        await scene.as("postgres", "discard temp");
        await scene.as(attacker, kit("pg_temp"));

        const watch = await keepWatch(scene, { attacker, writers: ["appwriter"] });
        for (const [i, step] of steps.entries()) {
          const refusal = await watch.attempt(step);
          outcomes[refusal ? "refused" : "done"] += 1;
          const harm = watch.wrong.splice(0).find((it) => it.includes("ran as"));
          // One of a kind is enough to read.
          const shape = harm?.replaceAll(/[sw]?\d+/g, "").slice(0, 60);
          if (harm && shape && !wrong.has(shape))
            wrong.set(shape, { n, seed, attacker, harm, after: steps.slice(0, i) });
        }
      }
    }

    expect([...wrong.values()]).toEqual([]);
    expect(outcomes.done).toBeGreaterThan(outcomes.refused / 4);
  });
}
