import { writeSync } from "node:fs";
import { Session } from "node:inspector";
import { setTimeout as sleep } from "node:timers/promises";
import { parentPort, workerData } from "node:worker_threads";
import { type Cells, hear, now, stillFor } from "../attempt/liveness.ts";
import type { Database } from "../database/database.ts";
import { jsonLine, makeLog, silentLog, textLine } from "../log.ts";

/** What this thread has to know. */
export interface PulseSetting {
  address: string;
  host: string;
  tasks: string[];
  cells: Cells;
  /** A loop that has not turned for so many milliseconds is blocked. */
  patience: number;
  format: "text" | "json" | undefined;
}

/** Whose code blocks the event loop, as far as it can be told. */
export interface PulseMessage {
  workflow?: string;
  run?: string;
  stack?: string;
}

const { address, host, tasks, cells, patience, format } = workerData as PulseSetting;
const pause = { look: 1000, beat: 10_000, answer: 10_000, pausing: 2000 }; // milliseconds
// The streams of this thread pass through the event loop that is blocked.
const write = (text: string) => {
  try {
    writeSync(2, text);
  } catch {} // nobody reads it
};
const log = format === undefined ? silentLog : makeLog(format === "json" ? jsonLine : textLine, write);

let ids: string[] = [];
parentPort?.on("message", (given: string[]) => {
  ids = given;
});

for (;;) {
  await sleep(pause.look);
  if (stillFor(cells) > patience) await standIn();
}

/** Gives the signs of life that the event loop cannot give, until it turns again or has been still for too long. */
async function standIn(): Promise<void> {
  const culprit = await findCulprit();
  parentPort?.postMessage(culprit);
  const { stack, ...fields } = culprit;
  const seconds = () => Math.round(stillFor(cells) / 1000);
  log.warn("the event loop is blocked, and nothing else runs in this process", {
    seconds: seconds(),
    ...fields,
    ...(stack && { stack }),
  });

  const { openDatabase } = await import("../database/database.ts");
  const database = openDatabase({ connect: address, connections: 1 });
  let isGivenUp = false;
  try {
    while (stillFor(cells) > patience) {
      const counts = await beat(database).catch((error: Error) => {
        log.warn("no sign of life could be given", { error: error.message });
        return true;
      });
      if (!counts && !isGivenUp) {
        isGivenUp = true;
        log.error("the event loop has been blocked for too long: others take over what runs here", {
          seconds: seconds(),
          ...fields,
        });
      }
      for (let waited = 0; waited < pause.beat && stillFor(cells) > patience; waited += pause.look) {
        await sleep(pause.look);
      }
    }
  } finally {
    await database.close();
  }
}

/** Whether a loop that has been blocked for so long still counts as alive. */
async function beat(database: Database): Promise<boolean> {
  const { beatOf } = await import("./beat.ts");
  let counts = true;
  const sentAt = now();
  for (const id of ids) {
    counts &&= await beatOf(database.within(pause.answer), { id, host, tasks, blockedFor: stillFor(cells) });
  }
  if (counts) hear(cells, sentAt);
  return counts;
}

/** Stops the event loop's thread for a moment, wherever it is, and asks whose code that is. */
async function findCulprit(): Promise<PulseMessage> {
  const session = new Session();
  try {
    session.connectToMainThread();
    const found = new Promise<PulseMessage>((resolve) => {
      session.once("Debugger.paused", ({ params: { callFrames } }) => {
        const expression = "globalThis[Symbol.for('notika.findBlocked')]()";
        session.post(
          "Debugger.evaluateOnCallFrame",
          { callFrameId: callFrames[0]?.callFrameId ?? "", expression, returnByValue: true },
          (_, answer) => resolve((answer?.result.value ?? {}) as PulseMessage),
        );
        session.post("Debugger.resume");
      });
    });
    session.post("Debugger.enable");
    session.post("Debugger.pause");
    // In native code, such as execSync, it cannot be stopped.
    return await Promise.race([found, sleep(pause.pausing, {})]);
  } catch {
    return {};
  } finally {
    session.disconnect();
  }
}
