import { Duplex } from "node:stream";
import { setImmediate } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { LateStream } from "../../runner/connection/late_stream.ts";

describe("a stream that opens late", () => {
  test("sends what was written together as one piece, and keeps the order", async () => {
    const sent: string[] = [];
    const inner = new Duplex({
      read() {},
      write(chunk: Buffer, _encoding, done) {
        sent.push(chunk.toString());
        done();
      },
    });
    const stream = new LateStream(async () => inner, 0);
    stream.write("login");
    await setImmediate();

    stream.cork();
    for (const part of ["parse ", "bind ", "execute ", "sync"]) stream.write(part);
    stream.uncork();
    stream.write("again");
    await setImmediate();

    expect(sent).toEqual(["login", "parse bind execute sync", "again"]);
    stream.destroy();
  });
});
