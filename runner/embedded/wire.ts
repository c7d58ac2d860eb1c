import type { Duplex } from "node:stream";
// Not the globals: a test that fakes all timers would stop every connection.
import { clearTimeout, setImmediate, setTimeout } from "node:timers";
import type { PGlite } from "@electric-sql/pglite";
import {
  errorResponse,
  type Frame,
  fieldOf,
  frames,
  letterOf,
  notificationResponse,
  simpleQuery,
  textAt,
} from "./protocol.ts";
import { type Exchange, type Listen, Session } from "./session.ts";

export interface PgliteWireOptions {
  /** How long a session may be idle in a transaction while others wait, in milliseconds; default: 5000. */
  patience?: number;
}

/**
 * Lets many unmodified clients share the one backend of a PGlite: each gets a stream with the protocol of Postgres.
 *
 * A session owns the backend from its first message until the backend is idle, so no other session runs during a transaction.
 * The state of a Postgres session is shared nevertheless: SET, temporary tables, session-level advisory locks.  Statements
 * that are passed to the PGlite directly run in whatever transaction is open.
 */
export class PgliteWire {
  readonly #db: PGlite;
  readonly #patience: number;
  readonly #sessions = new Set<Session>();
  readonly #stopRelay: () => void;
  /** Sessions with an exchange for the backend, in order of arrival; one entry for each exchange. */
  #queue: Session[] = [];
  #owner: Session | undefined;
  #running = false;
  #closed = false;
  #nextId = 1;
  #greeting: Buffer | undefined;
  #impatience: NodeJS.Timeout | undefined;

  constructor(db: PGlite, { patience = 5000 }: PgliteWireOptions = {}) {
    this.#db = db;
    this.#patience = patience;
    refusePrograms(db);
    this.#stopRelay = db.onNotification((channel, payload) => {
      this.#notify(channel, notificationResponse(channel, payload));
    });
  }

  /** Opens a new connection: `new pg.Pool({ stream: () => wire.connect() })`, `postgres({ socket: () => wire.connect() })`. */
  connect(): Duplex {
    const session = new Session(this.#nextId++, (it) => this.#enqueue(it));
    if (this.#closed) session.destroy(new Error("this Postgres is closed"));
    else this.#sessions.add(session);
    return session;
  }

  /** Ends all connections; the PGlite stays open. */
  close(): void {
    this.#closed = true;
    this.#stopRelay();
    this.#endAll();
  }

  #enqueue(session: Session) {
    if (this.#closed) return;
    this.#queue.push(session);
    if (!this.#running) {
      this.#running = true;
      setImmediate(() => this.#work());
    }
  }

  async #work() {
    try {
      for (let session = this.#next(); session; session = this.#next()) {
        const exchange = session.nextExchange();
        if (exchange) await this.#run(session, exchange);
        await new Promise((resolve) => setImmediate(resolve)); // lets timers and sockets run
      }
    } catch (error) {
      this.#endAll(error as Error);
    } finally {
      this.#running = false;
    }
    if (this.#owner && this.#queue.length) {
      this.#impatience ??= setTimeout(() => this.#breakStall(), this.#patience).unref();
    }
  }

  /** The session whose exchange comes next: the owner or, if the backend has none, the session that has waited longest. */
  #next(): Session | undefined {
    const at = this.#owner ? this.#queue.indexOf(this.#owner) : 0;
    return at < 0 ? undefined : this.#queue.splice(at, 1)[0];
  }

  async #run(session: Session, exchange: Exchange) {
    clearTimeout(this.#impatience);
    this.#impatience = undefined;
    const answer = await (exchange.kind === "startup" ? this.#greet(exchange.bytes) : this.#execute(exchange.bytes));
    const { bytes, isIdle } = this.#read(answer);
    this.#owner = isIdle ? undefined : session;
    session.deliver(bytes);

    if (exchange.kind === "goodbye") this.#sessions.delete(session);
    for (const listen of exchange.listens) apply(listen, session.channels);
    if (exchange.listens.some(({ on }) => !on) && !this.#owner) await this.#listenAgain();
  }

  /** PGlite starts its one session once; every client gets the answer of that start. */
  async #greet(startup: Buffer): Promise<Buffer> {
    this.#greeting ??= await this.#execute(startup);
    return this.#greeting;
  }

  /** The bytes of the backend's answer that are for the session that asked. */
  #read(answer: Buffer): { bytes: Buffer; isIdle: boolean } {
    const kept: Frame[] = [];
    let status = "";
    let refusesCopy = false;
    for (const message of frames(answer)) {
      const letter = letterOf(message);
      if (letter === "A") {
        this.#notify(textAt(message, 9), message); // the backend sent it to the session that was running, not to the one that listens
      } else if (letter === "G") {
        refusesCopy = true;
      } else if (letter === "E" && refusesCopy) {
        kept.push(errorResponse("0A000", "COPY FROM STDIN is not supported by the Postgres in this process"));
        refusesCopy = false;
      } else if (letter === "E" && fieldOf(message, "M")?.startsWith("could not execute command ")) {
        kept.push(errorResponse("0A000", "COPY with PROGRAM is not supported by the Postgres in this process"));
      } else {
        kept.push(message);
      }
      if (letter === "Z") status = String.fromCharCode(message[5] ?? 0);
    }
    return { bytes: Buffer.concat(kept), isIdle: status === "I" };
  }

  async #execute(messages: Buffer): Promise<Buffer> {
    const answers: Buffer[] = [];
    await this.#db.runExclusive(() =>
      this.#db.execProtocolRawStream(messages, { onRawData: (bytes) => void answers.push(Buffer.from(bytes)) }),
    );
    return Buffer.concat(answers);
  }

  #notify(channel: string, notification: Frame) {
    for (const session of this.#sessions) if (session.channels.has(channel)) session.deliver(notification);
  }

  /** Listens again: the backend has one list of channels, and an UNLISTEN of one session must not affect the others. */
  async #listenAgain() {
    const channels = new Set([...this.#sessions].flatMap((session) => [...session.channels]));
    const statements = [...channels].map((channel) => `listen "${channel.replaceAll('"', '""')}"`);
    if (statements.length) await this.#execute(simpleQuery(statements.join(";")));
  }

  /**
   * Rolls back an idle transaction like idle_in_transaction_session_timeout, but only while another session waits, which would
   * otherwise wait forever.
   */
  async #breakStall() {
    const owner = this.#owner;
    this.#impatience = undefined;
    if (this.#running || !owner) return;
    const waiting = new Set(this.#queue).size;
    owner.loseTransaction(
      `transaction rolled back: it was idle for ${this.#patience} ms while ${waiting} other connection${waiting > 1 ? "s" : ""} waited, ` +
        "and the Postgres in this process serves one at a time",
    );
    this.#owner = undefined;
    this.#running = true;
    await this.#execute(simpleQuery("rollback")).catch((error) => this.#endAll(error));
    await this.#work();
  }

  #endAll(error?: Error) {
    clearTimeout(this.#impatience);
    const sessions = [...this.#sessions];
    this.#sessions.clear();
    for (const session of sessions) session.destroy(error);
    this.#queue = [];
    this.#owner = undefined;
  }
}

/**
 * Makes COPY with PROGRAM fail like any other statement, also in a function.  Otherwise PGlite would throw through the frames
 * of Postgres, and never answer again.
 */
function refusePrograms(db: PGlite) {
  db.handleExternalCmd = (command, mode) =>
    command.startsWith("locale -a") ? Object.getPrototypeOf(db).handleExternalCmd.call(db, command, mode) : 0;
}

function apply({ channel, on }: Listen, channels: Set<string>) {
  if (on) channels.add(channel);
  else if (channel === "*") channels.clear();
  else channels.delete(channel);
}
