import { SocketStream } from "../connection/socket_stream.ts";
import {
  closeStatement,
  copyFail,
  errorResponse,
  type Frame,
  frames,
  insertAt,
  letterOf,
  readyForQuery,
  requests,
  simpleQuery,
  sqlOf,
  startup,
  statementOf,
  sync,
} from "./protocol.ts";

/** Messages of one session that are sent to the backend together: up to a Sync, a Query or a Flush. */
export interface Exchange {
  kind: "startup" | "work" | "goodbye";
  bytes: Buffer;
  listens: Listen[];
}

export interface Listen {
  channel: string;
  on: boolean;
}

/** The connection of one client: a socket for the client; for the wire, a queue of exchanges that takes the answers. */
export class Session extends SocketStream {
  readonly channels = new Set<string>();
  readonly #onExchange: (session: Session) => void;
  readonly #prefix: string;
  readonly #prepared = new Set<string>();
  #exchanges: Exchange[] = [];
  #unread: Buffer = Buffer.alloc(0);
  #unsent: Frame[] = [];
  #listens: Listen[] = [];
  #mayCopy = false;
  #refusal: string | undefined;
  #skipsToSync = false;
  #state: "new" | "started" | "ended" = "new";

  constructor(id: number, onExchange: (session: Session) => void) {
    super();
    this.#prefix = `s${id}:`;
    this.#onExchange = onExchange;
  }

  /** The next exchange for the backend; undefined: there is none, or it was refused here. */
  nextExchange(): Exchange | undefined {
    const exchange = this.#exchanges.shift();
    return exchange && this.#refuses(exchange) ? undefined : exchange;
  }

  /** Sends bytes of the backend to the client. */
  deliver(bytes: Buffer) {
    if (bytes.length && this.#state !== "ended") this.push(bytes);
  }

  /** Notes that the transaction of this session was rolled back: its next statement fails with `reason`. */
  loseTransaction(reason: string) {
    this.#refusal = reason;
  }

  override _read() {}

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void) {
    this.#unread = this.#unread.length ? Buffer.concat([this.#unread, chunk]) : chunk;
    while (this.#state === "new" && this.#greet());
    if (this.#state === "started") this.#read();
    done();
  }

  override _final(done: (error?: Error | null) => void) {
    this.#sayGoodbye();
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void) {
    this.#sayGoodbye();
    done(error);
  }

  /** Answers one message before the start of the session; false: there is none. */
  #greet(): boolean {
    if (this.#unread.length < 8) return false;
    const length = this.#unread.readInt32BE(0);
    if (this.#unread.length < length) return false;
    const request = this.#unread.readInt32BE(4);
    this.#unread = this.#unread.subarray(length);

    if (request === requests.ssl || request === requests.gss) {
      this.deliver(Buffer.from("N"));
    } else if (request === requests.cancel) {
      this.end();
    } else {
      this.#state = "started";
      this.#send("startup", startup); // the user of every session is postgres
    }
    return true;
  }

  #read() {
    for (const message of frames(this.#unread)) {
      this.#unread = this.#unread.subarray(message.length);
      this.#hear(message);
    }
  }

  #hear(message: Frame) {
    const sql = sqlOf(message);
    if (sql) this.#listens.push(...listensIn(sql));
    if (sql && /\bstdin\b/i.test(sql)) this.#mayCopy = true;

    const letter = letterOf(message);
    switch (letter) {
      case "X":
        return this.end();
      case "d":
      case "c":
      case "f":
        return; // copied data; the COPY was refused
      case "Q":
      case "E":
        this.#unsent.push(message);
        // PGlite ends the process when it waits for data; without a COPY this message has no effect.
        if (this.#mayCopy) this.#unsent.push(copyFail("refused"));
        break;
      default:
        this.#unsent.push(this.#ownName(message));
    }
    if ("QSHF".includes(letter)) this.#send("work", ...this.#unsent.splice(0));
  }

  /** Adds a prefix to the name of a prepared statement: all sessions share the names of one backend. */
  #ownName(message: Frame): Frame {
    const statement = statementOf(message);
    if (!statement) return message;
    const name = this.#prefix + statement.name;
    if (letterOf(message) === "P") this.#prepared.add(name);
    if (letterOf(message) === "C") this.#prepared.delete(name);
    return insertAt(message, statement.at, this.#prefix);
  }

  /** Refuses an exchange after the transaction was lost; like a failed transaction, it accepts only its end. */
  #refuses({ kind, bytes }: Exchange): boolean {
    if (this.#refusal === undefined || kind !== "work") return false;
    const messages = [...frames(bytes)];
    const ends = (end: RegExp) => messages.some((message) => end.test(sqlOf(message) ?? ""));
    if (ends(/^\s*(rollback|abort)\b(?!.*\bto\b)/is)) {
      this.#refusal = undefined;
      return false; // the rollback has happened
    }

    if (!this.#skipsToSync) this.deliver(errorResponse("25P03", this.#refusal));
    if (ends(/^\s*(commit|end)\b/i)) this.#refusal = undefined;
    this.#skipsToSync = messages.every((message) => letterOf(message) !== "S" && letterOf(message) !== "Q");
    if (!this.#skipsToSync) this.deliver(readyForQuery(this.#refusal ? "E" : "I"));
    return true;
  }

  #send(kind: Exchange["kind"], ...messages: Buffer[]) {
    this.#exchanges.push({ kind, bytes: Buffer.concat(messages), listens: this.#listens.splice(0) });
    this.#onExchange(this);
  }

  /** Cleans up on the backend, in any state of the session. */
  #sayGoodbye() {
    if (this.#state === "ended") return;
    this.#state = "ended";
    if (!this.destroyed) this.push(null);
    this.#listens = [{ channel: "*", on: false }];
    this.#send(
      "goodbye",
      sync, // ends the skipping after an error
      simpleQuery("rollback"),
      simpleQuery("unlisten *"),
      ...[...this.#prepared].map(closeStatement),
      sync,
    );
  }
}

function listensIn(sql: string): Listen[] {
  const statements = sql.matchAll(/(?:^|;)\s*(un)?listen\s+(?:"((?:[^"]|"")+)"|([\w$]+|\*))/gi);
  return [...statements].map(([, un, quoted, plain]) => ({
    channel: quoted?.replaceAll('""', '"') ?? plain?.toLowerCase() ?? "",
    on: !un,
  }));
}
