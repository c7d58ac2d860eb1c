import { readFileSync } from "node:fs";
import { chmod, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { notikaCommand, start } from "../runner/process.ts";
import { type Postgres, startPostgres } from "../support/postgres.ts";
import { openSession, until, versions } from "./cluster.ts";

const password = "s3nt1nel-pa:ss/w@rd";

describe.each(versions)("the password, on PostgreSQL %i", (major) => {
  let server: Postgres;
  let folder: string;
  let url: string;

  beforeAll(async () => {
    folder = await mkdtemp(path.join(tmpdir(), "notika-secrets-"));
    await mkdir(path.join(folder, "tasks"));
    await writeFile(
      path.join(folder, "tasks/greet.ts"),
      `export default async ({ event, query }) => {
         if (event.new.id === 2) throw new Error("nobody to greet");
         await query({ text: "select 1", values: [] });
       };`,
    );
    await writeFile(path.join(folder, "hba.conf"), "host all ada all scram-sha-256\nhost all all all trust\n");
    await chmod(folder, 0o755);
    server = await startPostgres({ major, settings: { hba_file: path.join(folder, "hba.conf") } });
    const root = openSession(server.url);
    await root.query(`create role ada login password '${password}'`);
    await root.query("create database app owner ada");
    await root.close();
    url = `postgres://ada:${encodeURIComponent(password)}@127.0.0.1:${server.port}/app`;
  });
  afterAll(async () => {
    await server.stop();
    await rm(folder, { recursive: true });
  });

  test("appears nowhere: not in what is said, logged, stored, or shown of the process", async () => {
    const outputs: string[] = [];
    const notika = async (...args: string[]) => {
      const { code, stdout, stderr } = await start([...notikaCommand, ...args, "--url", url], folder).ended;
      outputs.push(stdout, stderr);
      return code;
    };
    const root = openSession(`postgres://postgres@127.0.0.1:${server.port}/app`);
    expect(await notika("install")).toBe(0);
    await root.database.script("set role ada; create table public.person (id int primary key); reset role");
    expect(await notika("publish", "greet", "--table", "public.person")).toBe(0);

    const runners = [[], ["--json"]].map((more) => start([...notikaCommand, "run", "--url", url, ...more], folder));
    for (const runner of runners) await runner.says(/running/);
    const titles = runners.map(({ pid }) =>
      readFileSync(`/proc/${pid}/cmdline`, "latin1").replaceAll("\0", " ").trim(),
    );
    await root.query("insert into public.person values (1), (2)");
    await until(root, "exists (select from notika.runs where state = 'done')");
    // Connections get lost, and nobody is let in for a while.
    await root.query("alter role ada password 'another'");
    const refused = Promise.all(runners.map((runner) => runner.says(/password authentication failed/))).then(
      () => true,
    );
    do {
      // More than once: a connection that is just being let in is not seen.
      await root.query("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'ada'");
    } while (!(await Promise.race([refused, sleep(200, false)])));
    expect(await notika("status")).toBe(1);
    await root.query(`alter role ada password '${password}'`);
    await sleep(1000);
    expect(await notika("doctor")).toBe(0);
    expect(await notika("status", "--json")).toBe(0);
    for (const runner of runners) {
      runner.kill("SIGTERM");
      const { stdout, stderr } = await runner.ended;
      outputs.push(stdout, stderr);
    }
    const stored = await root.query<{ content: string }>(`
      select query_to_xml(format('select * from %s', c.oid::regclass), false, false, '')::text as content
        from pg_class as c
       where c.relnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
         and c.relkind in ('r', 'p', 'v')`);
    const sessions = await root.query("select application_name, query from pg_stat_activity");
    await root.close();

    expect(titles).toEqual(["notika run", "notika run"]);
    expect(stored.length).toBeGreaterThan(10);
    for (const text of [...outputs, ...titles, JSON.stringify(stored), JSON.stringify(sessions)]) {
      expect(text).not.toContain("s3nt1nel");
    }
  });
});
