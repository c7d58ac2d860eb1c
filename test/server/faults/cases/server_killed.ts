import { away } from "../harness/away.ts";
import type { Fault } from "../harness/fault.ts";

export default {
  title: "kill -9 of the server, crash recovery",
  ofServer: true,
  async strike(stage) {
    await stage.server.kill("SIGKILL");
    await away(stage, stage.isShort ? 1000 : 8000 * stage.random());
    await stage.server.restart();
  },
} satisfies Fault;
