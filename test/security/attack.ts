import { expect } from "vitest";
import { kit } from "./canary.ts";
import { hasTime, isSince, type Kind, type Refusal, type Scene, some, test } from "./scene.ts";

/** A role, or "owner" for the one that owns Notika, and what it runs. */
export type Step = readonly [role: string, statements: string];

export interface Attack {
  name: string;
  /** The owner of what is in schema evil: the only role that it may run as. */
  attacker: string;
  /** What else the attacker makes ready. */
  plant?: string;
  /** What others do in good faith; it has to work. */
  honest?: Step[];
  /** What sets it off; each may be refused. */
  trigger: Step[];
  /** The roles that it may run as by a rule of Postgres' own: a role that writes to a table runs its triggers and checks. */
  writers?: string[];
  kinds?: readonly Kind[];
  since?: Parameters<typeof isSince>[0];
}

/** A test of each attack in each kind of installation: nobody but the attacker has run what he planted. */
export function resists(attacks: Attack[]) {
  for (const [nth, attack] of attacks.entries()) {
    if (!hasTime(nth)) continue;
    for (const kind of attack.kinds ?? some(nth)) {
      test(`${attack.name} (by ${kind})`, async ({ open, skip }) => {
        if (!isSince(attack.since ?? 15)) skip("this version of Postgres has no such thing");
        const scene = await open(kind);
        await plant(scene, attack.attacker);
        if (attack.plant) await scene.as(attack.attacker, attack.plant);
        for (const [role, statements] of attack.honest ?? []) await scene.as(await named(scene, role), statements);

        const watch = await keepWatch(scene, attack);
        for (const step of attack.trigger) await watch.attempt(step);

        expect(watch.wrong).toEqual([]);
      });
    }
  }
}

/** Makes schema evil, with all that calls the canary. */
export async function plant(scene: Scene, attacker: string) {
  await scene.as("postgres", `create schema evil authorization ${attacker}; grant usage on schema evil to public`);
  await scene.as(attacker, kit("evil"));
}

/** Takes steps, and keeps in `wrong` those that ran the canary, with the role, and those that failed for a reason that shows nothing. */
export async function keepWatch(scene: Scene, { attacker, writers = [] }: Pick<Attack, "attacker" | "writers">) {
  const wrong: string[] = [];
  await scene.noted();
  return {
    wrong,
    async attempt([role, statements]: Step, label = `${role}: ${statements.slice(0, 200)}`) {
      const refusal = await scene.attempt(await named(scene, role), statements);
      const victims = (await scene.noted()).filter((it) => it !== attacker && !writers.includes(it));
      if (victims.length) wrong.push(`${label} -> ran as ${victims}`);
      if (refusal && isMishap(refusal)) wrong.push(`${label} -> ${refusal.code} ${refusal.message}`);
      return refusal;
    },
  };
}

const named = (scene: Scene, role: string) => (role === "owner" ? scene.owner() : role);

/** A refusal that has nothing to do with the attack: then the test would show nothing. */
function isMishap({ code, message }: Refusal) {
  // What was refused before is not there afterwards.
  if (message.includes("condition") || /^workflow "\w+" is not published$/.test(message)) return false;
  const unknown = ["3F000", "42601", "42704", "42P01", "42703", "42883", "25P02"];
  return unknown.includes(code) || (code === "42501" && /^(permission denied|must be owner)/.test(message));
}
