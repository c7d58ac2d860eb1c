import { Duplex } from "node:stream";

/** A stream with the members of a net.Socket that pg and postgres.js use. */
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
