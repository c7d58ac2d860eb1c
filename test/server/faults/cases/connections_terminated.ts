import { setTimeout as sleep } from "node:timers/promises";
import sql from "sql-template-tag";
import type { Fault } from "../harness/fault.ts";

export default {
  title: "pg_terminate_backend of every connection, every second",
  async strike({ database, isShort }) {
    for (let times = isShort ? 3 : 15; times > 0; times--) {
      await database.execute(sql`
        select pg_terminate_backend(pid)
          from pg_stat_activity
         where pid <> pg_backend_pid() and datname = current_database() and backend_type = 'client backend'`);
      await sleep(1000);
    }
  },
} satisfies Fault;
