import { execFileSync } from "node:child_process";
import { EventEmitter } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { type Context, sql, workflow } from "../../../runner/index.ts";

export type Call = Context<{ kind: keyof typeof ways; seconds?: number }, "insert">;

/** What a task can do wrong, by the names that the table in docs/tasks.md has. */
export const ways = {
  async "does not await a promise, which rejects"() {
    void fails();
    await sleep(60_000);
  },
  async "does not await one that rejects as the task returns"() {
    void Promise.reject(new Error("left alone"));
  },
  async "does not await one that rejects after the run has ended"() {
    void sleep(300).then(fails);
  },
  async "throws in a timer"() {
    setTimeout(() => {
      throw new Error("left alone");
    }, 10);
    await sleep(60_000);
  },
  async "throws in a listener"() {
    const emitter = new EventEmitter().on("data", () => {
      throw new Error("left alone");
    });
    process.nextTick(() => emitter.emit("data"));
    await sleep(60_000);
  },
  async "emits an error event without a listener"() {
    setImmediate(() => new EventEmitter().emit("error", new Error("left alone")));
    await sleep(60_000);
  },
  async "calls `process.exit(1)`"() {
    process.exit(1);
  },
  async "calls it inside try and catch"() {
    await fails()
      .catch(() => process.exit(1))
      .catch(() => {});
  },
  async "throws a value that is not an Error"() {
    throw { code: 422, reason: ["refused"] };
  },
  async "throws undefined"() {
    return Promise.reject();
  },
  async "forgets `await` before `step.sleep`"({ step }: Call) {
    step.sleep("a day", "1 day");
    await step.run("next", () => {});
  },
  async "forgets it before the last wait"({ step }: Call) {
    step.sleep("a day", "1 day");
  },
  async "forgets it before `step.run`"({ step }: Call) {
    step.run("slow", () => sleep(500));
  },
  async "is well-behaved"() {
    await sleep(1500);
  },
  async "blocks the event loop"({ event, step }: Call) {
    const until = Date.now() + (event.new.seconds ?? 0) * 1000;
    await step.run("compute", () => {
      while (Date.now() < until);
    });
  },
  async "blocks it in native code"({ event }: Call) {
    execFileSync("sleep", [String(event.new.seconds)]);
  },
  async "takes two steps"({ event, step, query }: Call) {
    const take = (what: string) => query(sql`insert into public.taken values (${what}, ${process.pid})`);
    await step.run("first", async () => {
      await take("first");
      await sleep((event.new.seconds ?? 0) * 1000);
    });
    await step.run("second", () => take("second"));
  },
  async "kills its process"() {
    process.kill(process.pid, "SIGKILL");
    await sleep(60_000);
  },
};

async function fails() {
  await sleep(10);
  throw new Error("left alone");
}

export default workflow({
  retries: 0,
  run: (call) => ways[(call as unknown as Call).event.new.kind](call as unknown as Call),
});
