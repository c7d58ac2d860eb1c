import { raw } from "sql-template-tag";
import { away } from "../harness/away.ts";
import type { Fault } from "../harness/fault.ts";

export default {
  title: "the server takes no writes, as a full disk makes a provider's",
  ofServer: true,
  async strike(stage) {
    const { database, isShort, random } = stage;
    await database.execute(raw("alter system set default_transaction_read_only = on"));
    await database.execute(raw("select pg_reload_conf()"));
    await away(stage, isShort ? 2000 : 10_000 * random());
    await database.execute(raw("alter system reset default_transaction_read_only"));
    await database.execute(raw("select pg_reload_conf()"));
  },
} satisfies Fault;
