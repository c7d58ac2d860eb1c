import { setTimeout as sleep } from "node:timers/promises";
import { raw } from "sql-template-tag";
import { type Database, openDatabase } from "../../../../runner/database/database.ts";
import { installStage, type Stage } from "./stage.ts";

/** Installs Notika with a ring that is due to turn whenever there is an event. */
export async function installTurningRing(stage: Stage): Promise<void> {
  await installStage(stage);
  await stage.database.script("update notika.setting set segment_age = '1 microsecond'");
}

/** Does what runners do every ten seconds, all the time; what was said, and how often. */
export async function turnRing({ database }: Stage, milliseconds: number): Promise<Record<string, number>> {
  const said: Record<string, number> = {};
  for (const end = Date.now() + milliseconds; Date.now() < end; await sleep(50)) {
    for (const { answer } of await database.execute<{ answer: string }>(
      raw("select regexp_replace(said, '[0-2]', 'N', 'g') as answer from notika.maintain() as said"),
    )) {
      said[answer] = (said[answer] ?? 0) + 1;
    }
  }
  return said;
}

export const turned = "the ring turned to notika.event_log_N";
export const inUse = "the ring is due to turn, but notika.event_log_N is in use";
export const waits = "the ring is due to turn, but notika.event_log_N holds events that wait";

/** Has somebody else do this in a transaction that stays open meanwhile. */
export async function whileOpen<Result>(url: string, script: string, during: () => Promise<Result>): Promise<Result> {
  const other: Database = openDatabase({ connect: url, connections: 1 });
  try {
    await other.script(script);
    return await during();
  } finally {
    await other.script("rollback");
    await other.close();
  }
}
