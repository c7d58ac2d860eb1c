import type { Duplex } from "node:stream";
import { NotikaError } from "../errors.ts";
import { SocketStream } from "./socket_stream.ts";

/**
 * A stream that exists before its connection is open: data written meanwhile waits.  Once it is open, the login must complete
 * within `patience` milliseconds; 0: no limit.
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
    // The error event reports errors.
    if (this.#inner?.write(chunk)) done();
    else this.#inner?.once("drain", done).once("close", done);
  }

  // Chunks of one message are sent together: otherwise each would cost a system call and wake the server.
  override _writev(chunks: { chunk: Buffer }[], done: (error?: Error | null) => void) {
    this._write(Buffer.concat(chunks.map(({ chunk }) => chunk)), "buffer" as BufferEncoding, done);
  }

  override _final(done: () => void) {
    this.#inner?.end();
    // A connection that was lost on the network would wait forever for the other side to close it.
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

/** Whether a chunk of the server ends with ReadyForQuery. */
function isReady(chunk: Buffer): boolean {
  return chunk.subarray(-6).equals(ready);
}

const ready = Buffer.from("Z\0\0\0\x05I", "latin1");

function late(patience: number): NotikaError {
  return new NotikaError("NOTIKA_CONNECT", `the database did not complete the login within ${patience / 1000} s`, {
    hint: "The server may be overloaded, or a pooler cannot reach its server.",
  });
}
