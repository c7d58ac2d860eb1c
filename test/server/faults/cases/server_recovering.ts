import path from "node:path";
import { away } from "../harness/away.ts";
import type { Fault } from "../harness/fault.ts";
import { giveToServer } from "../harness/server.ts";

export default {
  title: "the server in recovery for seconds: starting up, read-only, then as before",
  ofServer: true,
  async strike(stage) {
    const { server } = stage;
    await server.kill("SIGKILL");
    // It asks an archive for each file, in vain, before it ends its recovery; the archive takes its time.
    giveToServer(path.join(server.data, "recovery.signal"));
    const back = server.restart();
    await away(stage, 2000);
    await back;
    await stage.primary();
  },
} satisfies Fault;
