import path from "node:path";
import { raw } from "sql-template-tag";
import { away } from "../harness/away.ts";
import type { Fault } from "../harness/fault.ts";
import { giveToServer } from "../harness/server.ts";

export default {
  title: "the server comes back as a standby, read-only, and is promoted",
  ofServer: true,
  async strike(stage) {
    const { server, database, isShort } = stage;
    await server.kill("SIGKILL");
    giveToServer(path.join(server.data, "standby.signal"));
    await server.restart();
    await away(stage, isShort ? 2000 : 10_000 * stage.random());
    await database.execute(raw("select pg_promote()"));
    await stage.primary();
  },
} satisfies Fault;
