import { writeSync } from "node:fs";
import { Session } from "node:inspector";
import { setTimeout as sleep } from "node:timers/promises";
import { parentPort, workerData } from "node:worker_threads";
import { blockedFor, type Liveness, noteHeartbeat, now } from "../attempt/liveness.ts";
import type { Database } from "../database/database.ts";
import { jsonLine, makeLog, silentLog, textLine } from "../log.ts";

/** The settings of this thread. */
export interface WatchdogSetting {
  address: string;
  host: string;
  tasks: string[];
  liveness: Liveness;
  /** In milliseconds: an event loop that has not turned for this long is blocked. */
  patience: number;
  format: "text" | "json" | undefined;
}

/** The code that blocks the event loop; fields that are not known are missing. */
export interface BlockedCode {
  workflow?: string;
  run?: string;
  stack?: string;
}

const { address, host, tasks, liveness, patience, format } = workerData as WatchdogSetting;
const pause = { look: 1000, heartbeat: 10_000, answer: 10_000, pausing: 2000 }; // milliseconds
// The streams of this thread pass through the blocked event loop.
const write = (text: string) => {
  try {
    writeSync(2, text);
  } catch {} // stderr is closed
};
const log = format === undefined ? silentLog : makeLog(format === "json" ? jsonLine : textLine, write);

let ids: string[] = [];
parentPort?.on("message", (given: string[]) => {
  ids = given;
});

for (;;) {
  await sleep(pause.look);
  if (blockedFor(liveness) > patience) await sendHeartbeats();
}

/** Sends the heartbeats that the event loop cannot send, until it turns again. */
async function sendHeartbeats(): Promise<void> {
  const blocked = await findBlockedCode();
  parentPort?.postMessage(blocked);
  const { stack, ...fields } = blocked;
  const seconds = () => Math.round(blockedFor(liveness) / 1000);
  log.warn("the event loop is blocked, and nothing else runs in this process", {
    seconds: seconds(),
    ...fields,
    ...(stack && { stack }),
  });

  const { openDatabase } = await import("../database/database.ts");
  const database = openDatabase({ connect: address, connections: 1 });
  let isGivenUp = false;
  try {
    while (blockedFor(liveness) > patience) {
      const counts = await heartbeat(database).catch((error: Error) => {
        log.warn("heartbeat failed", { error: error.message });
        return true;
      });
      if (!counts && !isGivenUp) {
        isGivenUp = true;
        log.error("the event loop has been blocked for too long: other runners take over its runs", {
          seconds: seconds(),
          ...fields,
        });
      }
      for (let waited = 0; waited < pause.heartbeat && blockedFor(liveness) > patience; waited += pause.look) {
        await sleep(pause.look);
      }
    }
  } finally {
    await database.close();
  }
}

/** Sends one heartbeat; false: the event loop has been blocked for too long to count as alive. */
async function heartbeat(database: Database): Promise<boolean> {
  const { sendHeartbeat } = await import("./heartbeat.ts");
  let counts = true;
  const sentAt = now();
  for (const id of ids) {
    counts &&= await sendHeartbeat(database.within(pause.answer), {
      id,
      host,
      tasks,
      blockedFor: blockedFor(liveness),
    });
  }
  if (counts) noteHeartbeat(liveness, sentAt);
  return counts;
}

/** Pauses the thread of the event loop for a moment, and asks which code it is in. */
async function findBlockedCode(): Promise<BlockedCode> {
  const session = new Session();
  try {
    session.connectToMainThread();
    const found = new Promise<BlockedCode>((resolve) => {
      session.once("Debugger.paused", ({ params: { callFrames } }) => {
        const expression = "globalThis[Symbol.for('notika.findBlockedCode')]()";
        session.post(
          "Debugger.evaluateOnCallFrame",
          { callFrameId: callFrames[0]?.callFrameId ?? "", expression, returnByValue: true },
          (_, answer) => resolve((answer?.result.value ?? {}) as BlockedCode),
        );
        session.post("Debugger.resume");
      });
    });
    session.post("Debugger.enable");
    session.post("Debugger.pause");
    // In native code, such as execSync, it cannot be paused.
    return await Promise.race([found, sleep(pause.pausing, {})]);
  } catch {
    return {};
  } finally {
    session.disconnect();
  }
}
