import type { Duplex } from "node:stream";
import { NotikaError } from "../errors.ts";
import { SocketStream } from "./socket_stream.ts";

/**
 * A stream that can be had before its connection is open: what is written meanwhile waits.  Once it is, the session has
 * to be ready within `patience` milliseconds; 0: whenever it likes.
 */
export class LateStream extends SocketStream {
  readonly #open: () => Promise<Duplex>;
  readonly #patience: number;
  #inner: Duplex | undefined;
  #impatience: NodeJS.Timeout | undefined;

  constructor(open: () => Promise<Duplex>, patience: number) {
    super();
    this.#open = open;
    this.#patience = patience;
  }

  override _construct(done: (error?: Error | null) => void) {
    this.#open().then(
      (inner) => {
        this.#inner = inner;
        if (this.#patience > 0) this.#impatience = setTimeout(() => this.destroy(late(this.#patience)), this.#patience);
        inner
          .on("data", (chunk: Buffer) => {
            if (this.#impatience && isReady(chunk)) this.#impatience = void clearTimeout(this.#impatience);
            if (!this.push(chunk)) inner.pause();
          })
          .on("end", () => this.push(null))
          .on("error", (error) => this.destroy(error))
          .on("close", () => this.destroy());
        done();
      },
      (error) => done(error),
    );
  }

  override _read() {
    this.#inner?.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void) {
    // Errors come by the event.
    if (this.#inner?.write(chunk)) done();
    else this.#inner?.once("drain", done).once("close", done);
  }

  // One message of several parts goes out as one: in parts each would cost a system call and wake the server.
  override _writev(chunks: { chunk: Buffer }[], done: (error?: Error | null) => void) {
    this._write(Buffer.concat(chunks.map(({ chunk }) => chunk)), "buffer" as BufferEncoding, done);
  }

  override _final(done: () => void) {
    this.#inner?.end();
    // Who has been forgotten on the way would wait for ever for the other side to hang up too.
    setTimeout(() => this.destroy(), 5000).unref();
    done();
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void) {
    clearTimeout(this.#impatience);
    this.#inner?.destroy();
    done(error);
  }

  override ref() {
    (this.#inner as { ref?: () => void } | undefined)?.ref?.();
    return this;
  }

  override unref() {
    (this.#inner as { unref?: () => void } | undefined)?.unref?.();
    return this;
  }
}

/** Whether what a server says ends with its being ready for the first query. */
function isReady(chunk: Buffer): boolean {
  return chunk.subarray(-6).equals(ready);
}

const ready = Buffer.from("Z\0\0\0\x05I", "latin1");

function late(patience: number): NotikaError {
  return new NotikaError("NOTIKA_CONNECT", `the database did not complete the login within ${patience / 1000} s`, {
    hint: "A pooler that cannot reach its server behaves like that; so does a server that is overloaded.",
  });
}
