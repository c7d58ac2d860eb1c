import { Duplex } from "node:stream";

/** A stream that has what pg and postgres.js ask of a net.Socket. */
export class SocketStream extends Duplex {
  constructor() {
    super({ allowHalfOpen: false });
  }

  connect() {
    process.nextTick(() => this.emit("connect"));
    return this;
  }
  get readyState() {
    return this.destroyed ? "closed" : "open";
  }
  setNoDelay() {
    return this;
  }
  setKeepAlive() {
    return this;
  }
  ref() {
    return this;
  }
  unref() {
    return this;
  }
}
