import { setTimeout } from "node:timers/promises";
import sql from "sql-template-tag";
import type { Context } from "../../../runner/index.ts";

interface Work {
  id: string;
  ms: number;
  kind: "polite" | "stubborn" | "faulty";
}

/** Takes its time: polite work ends when it is aborted, stubborn work does not, faulty work fails. */
export default async function work({ event, query, signal }: Context<Work, "insert">) {
  const { id, ms, kind } = event.new;
  await query(sql`insert into public.done (work_id, what) values (${id}::bigint, 'began')`);
  await setTimeout(ms, undefined, kind === "polite" ? { signal } : {});
  if (kind === "faulty") throw new Error(`work ${id} is faulty`);
  await query(sql`insert into public.done (work_id, what) values (${id}::bigint, 'ended')`);
}
