import type { Client } from "pg";
import { ask } from "./ask.ts";
import { error, type Finding, ok, warning } from "./finding.ts";

/** Examines the server: its version, clock, connections and settings. */
export async function server(client: Client): Promise<Finding[]> {
  const [found] = (await ask<Facts>(client, facts)) as [Facts];
  return [version(found), ...purpose(found), await clock(client), connections(found), prepared(found), ...muted(found)];
}

interface Facts {
  version: string;
  major: number;
  is_standby: boolean;
  is_read_only: boolean;
  max_connections: number;
  reserved: number;
  in_use: number;
  role_limit: number;
  role_in_use: number;
  max_prepared: number;
  old_prepared: string[] | null;
  replication_role: string;
  event_triggers: string | null;
}

const facts = `
  select current_setting('server_version') as version,
         current_setting('server_version_num')::integer / 10000 as major,
         pg_is_in_recovery() as is_standby,
         current_setting('default_transaction_read_only')::boolean as is_read_only,
         current_setting('max_connections')::integer as max_connections,
         current_setting('superuser_reserved_connections')::integer
           + coalesce(current_setting('reserved_connections', true)::integer, 0) as reserved,
         (select sum(d.numbackends)::integer from pg_stat_database as d) as in_use,
         (select r.rolconnlimit from pg_roles as r where r.rolname = current_user) as role_limit,
         (select count(*)::integer from pg_stat_activity as a where a.usename = current_user) as role_in_use,
         current_setting('max_prepared_transactions')::integer as max_prepared,
         (select array_agg(format('%s, by %s since %s', quote_literal(p.gid), p.owner, p.prepared))
            from pg_prepared_xacts as p
           where p.database = current_database() and p.prepared < now() - interval '10 seconds') as old_prepared,
         current_setting('session_replication_role') as replication_role,
         current_setting('event_triggers', true) as event_triggers`;

function version({ version, major }: Facts): Finding {
  if (major < 15) return error("version", `PostgreSQL ${version}: Notika needs 15 to 18`, "Upgrade the server.");
  if (major > 18)
    return warning("version", `PostgreSQL ${version}: Notika is tested with 15 to 18`, "npx notika --version");
  return ok("version", `PostgreSQL ${version}`);
}

function purpose({ is_standby, is_read_only }: Facts): Finding[] {
  if (is_standby) {
    const remedy = "Connect to the primary: name all hosts, with target_session_attrs=read-write.";
    return [error("standby", "the server is a standby, which is read-only", remedy)];
  }
  if (!is_read_only) return [];
  const remedy = "alter role <role> reset default_transaction_read_only; or the same for the database or the server.";
  return [error("read-only", "transactions are read-only by default", remedy)];
}

/** Measures the offset of the clocks with the fastest of three answers, which has the least network delay. */
async function clock(client: Client): Promise<Finding> {
  const answers: { offset: number; trip: number }[] = [];
  for (let count = 0; count < 3; count++) {
    const sent = Date.now();
    const start = performance.now();
    const { rows } = await client.query<{ now: number }>("select extract(epoch from clock_timestamp())::float8 as now");
    const trip = performance.now() - start;
    answers.push({ offset: (rows[0] as { now: number }).now * 1000 - sent - trip / 2, trip });
  }
  const [{ offset, trip } = { offset: 0, trip: 0 }] = answers.sort((a, b) => a.trip - b.trip);
  const skew = `the server's clock is ${Math.abs(offset / 1000).toFixed(1)} s ${offset < 0 ? "behind" : "ahead of"} this one`;
  const far = `round trip: ${trip.toFixed(1)} ms`;
  if (Math.abs(offset) - trip / 2 < 1000) return ok("clock", `the clocks agree; ${far}`);
  return warning(
    "clock",
    `${skew}, so times in the log and in the database differ; ${far}`,
    "Synchronize the clocks of both machines: timedatectl set-ntp true",
  );
}

/** Connections of a runner with the default concurrency, with two spare ones and one or two that listen. */
const wanted = 14;

function connections(found: Facts): Finding {
  const { max_connections, reserved, in_use, role_limit, role_in_use } = found;
  const free = max_connections - reserved - in_use;
  const own = role_limit < 0 ? Number.POSITIVE_INFINITY : role_limit - role_in_use;
  const left = Math.max(Math.min(free, own), 0);
  const detail =
    own < free
      ? `${left} of the ${role_limit} connections of this role are free`
      : `${left} of ${max_connections} are free; ${reserved} are reserved`;
  if (left >= wanted) return ok("connections", detail);
  return warning(
    "connections",
    `${detail}; a runner uses up to ${wanted}`,
    own < free
      ? `alter role current_user connection limit ${role_limit + wanted};`
      : "Raise max_connections, add a pooler, or lower the concurrency: npx notika run --concurrency 4",
  );
}

function prepared({ max_prepared, old_prepared }: Facts): Finding {
  if (old_prepared) {
    return warning(
      "prepared transactions",
      `prepared transactions that were neither committed nor rolled back hold back events: ${old_prepared.join("; ")}`,
      "commit prepared '<name>'; or rollback prepared '<name>';",
    );
  }
  if (max_prepared === 0) return ok("prepared transactions", "disabled (max_prepared_transactions = 0)");
  return ok("prepared transactions", `up to ${max_prepared}; none is older than 10 seconds`);
}

/** Reports settings that disable triggers in new sessions of this role. */
function muted({ replication_role, event_triggers }: Facts): Finding[] {
  const found: Finding[] = [];
  if (replication_role !== "origin") {
    found.push(
      warning(
        "session_replication_role",
        `it is ${replication_role} in a new session of this role, so its writes wake no workflow`,
        "alter role current_user reset session_replication_role;",
      ),
    );
  }
  if (event_triggers === "off") {
    found.push(
      warning(
        "event_triggers",
        "they are off in a new session of this role, so the guard does not see its migrations",
        "alter role current_user reset event_triggers;",
      ),
    );
  }
  return found;
}
