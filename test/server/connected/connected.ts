import { setTimeout as sleep } from "node:timers/promises";
import { type Context, sql, workflow } from "../../../runner/index.ts";

type Call = Context<{ kind: keyof typeof ways }, "insert">;

const ways = {
  query: ({ query }: Call) => query(sql`select pg_sleep(1)`),
  "step.query": ({ step }: Call) => step.query("slow", sql`select pg_sleep(1)`),
  "step.run": ({ step }: Call) => step.run("slow", () => sleep(1000)),
  "ends it": ({ query }: Call) => query(sql`select pg_terminate_backend(pg_backend_pid())`),
};

/** What needs its connection, for a second. */
export default workflow({
  retries: 0,
  async run(context) {
    const call = context as unknown as Call;
    await call.query(sql`insert into public.begun (kind) values (${call.event.new.kind})`);
    await ways[call.event.new.kind](call);
  },
});
