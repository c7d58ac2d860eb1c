import { execFile } from "node:child_process";
import { promisify } from "node:util";
import sql from "sql-template-tag";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openDatabase } from "../../../runner/database/database.ts";
import { install } from "../../../runner/install/install.ts";
import { committedMigrations } from "../../../runner/install/migrations.ts";
import { type Major, majors } from "../../support/binaries.ts";
import { isThorough, workflowWithoutTable } from "../../support/database.ts";
import { findProgram, type Postgres } from "../../support/postgres.ts";
import {
  drain,
  openArena,
  openSession,
  type Session,
  startAnotherCluster,
  startCluster,
  stopCluster,
} from "../cluster.ts";
import { type DumpTools, findDumpTools } from "../dump.ts";

const found = findDumpTools();

const schema = `
  create schema app;
  create table app.users (id int primary key, email text, n int not null default 0);
  create table app.orders (id int, total int) partition by range (id);
  create table app.orders_1 partition of app.orders for values from (0) to (1000);`;

const publish = `
  select notika.publish('greet', 'app.users', '{insert,update}', '{id,email}', watch => '{email}');
  select notika.publish('ship', 'app.orders');
  select notika.publish('count', 'app.users', columns => '{id}', guard => 'warn');`;

// Nine events: four are jobs, of which two wait for a time; five are not handed over, and a window is open.
const given = `${schema} ${publish}
  insert into app.users select i, 'user ' || i from generate_series(1, 3) as i;
  insert into app.orders values (1, 10), (2, 20);
  commit;
  select notika.dispatch(4);
  update notika_worker._private_jobs set run_at = now() + interval '3 days' where key::int in (3, 4);
  update app.users set email = 'new' where id = 1;`;

const waiting = ["count 1", "count 2", "count 3", "greet 1", "greet 1", "greet 2", "greet 3", "ship 1", "ship 2"];

describe.skipIf(typeof found === "string")(
  "a database that was dumped and restored into another cluster, of a newer version",
  () => {
    const tools = found as DumpTools;
    let original: Postgres;
    let other: Postgres;
    let url: string;
    let handedOver: string[];
    let dumps: { whole: Buffer; script: Buffer; schema: Buffer; data: Buffer };
    const open: Session[] = [];

    beforeAll(async () => {
      [original, other] = await Promise.all([
        startCluster({}, tools.major),
        startAnotherCluster(majors.at(-1) as Major),
      ]);
      url = await original.createDatabase("shop");
      await installed(url, given);
      const source = openSession(url);
      handedOver = (
        await source.query<{ run: string }>(`
          select (payload ->> 'workflow') || ' ' || (payload -> 'new' ->> 'id') as run from notika_worker._private_jobs`)
      ).map(({ run }) => run);
      expect(handedOver).toHaveLength(4);
      await source.close();
      dumps = {
        whole: tools.dump(url, "--format=custom"),
        script: tools.dump(url),
        schema: tools.dump(url, "--schema-only"),
        data: tools.dump(url, "--data-only", "--format=custom"),
      };
      const admin = openSession(other.url);
      await admin.database.script("create role dba login; create role keeper");
      await admin.close();
    });
    afterAll(async () => {
      await Promise.all(open.map((session) => session.close()));
      await Promise.all([stopCluster(original), stopCluster(other)]);
    });

    async function copy(fill: (url: string) => void, prepare = "") {
      const url = await other.createDatabase();
      const admin = openSession(url);
      await admin.database.script(prepare.replaceAll("DATABASE", url.split("/").at(-1) as string));
      await admin.close();
      fill(url);
      const warnings: string[] = [];
      const session = openSession(url, (message) => warnings.push(message));
      open.push(session);
      return { url, warnings, ...session };
    }

    /** What pg_restore complained about; it goes on. */
    function restore(dump: Buffer, url: string, ...options: string[]): string[] {
      try {
        tools.restore(dump, url, ...options);
        return [];
      } catch (error) {
        const { stderr } = error as { stderr?: Buffer };
        if (!stderr) throw error;
        return [...String(stderr).matchAll(/error: (.*)/g)].map(([, message = ""]) => message);
      }
    }

    const fills: [name: string, fill: (url: string) => void, prepare?: string][] = [
      ["by several jobs", (url) => tools.restore(dumps.whole, url, "--jobs=3", "--exit-on-error")],
      ["as a script", (url) => tools.psql(dumps.script, url)],
      [
        "first the schema, then the data with its triggers disabled",
        (url) => {
          tools.psql(dumps.schema, url);
          tools.restore(dumps.data, url, "--disable-triggers", "--exit-on-error");
        },
      ],
      [
        "by the owner of the database, who is no superuser",
        (url) => {
          const complaints = restore(dumps.whole, url.replace("postgres@", "dba@"), "--no-owner");
          expect(complaints.filter((complaint) => !complaint.includes("event trigger"))).toEqual([]);
        },
        `alter database "DATABASE" owner to dba`,
      ],
      [
        "under another owner",
        (url) => {
          const complaints = restore(dumps.whole, url, "--no-owner", "--role=keeper");
          expect(complaints.filter((complaint) => !complaint.includes("event trigger"))).toEqual([]);
        },
        `grant create on database "DATABASE" to keeper`,
      ],
    ];
    // Left to `npm run test:all`: what differs from another only in how the same is loaded.
    const variants = ["as a script", "under another owner"];
    describe.each(fills.filter(([name]) => isThorough || !variants.includes(name)))("%s", (name, fill, prepare) => {
      const isLimited = name.includes("owner");

      test("runs what waited and what is new, once each, with nothing done about it", async () => {
        const db = await copy(fill, prepare);
        expect(await findings(db)).toContainEqual({
          finding: "copy",
          severity: "warning",
          // Several jobs capture what they load into partitions, until the cursor is rebased.
          detail: expect.stringMatching(
            /^this is a copy from another cluster: [5-7] events and 4 runs that waited there will run here too$/,
          ),
        });

        await db.database.script("insert into app.users values (8, 'before'); insert into app.orders values (3)");
        await db.query("select notika.maintain()");
        await db.query("select notika.dispatch()");
        await db.query("update app.users set email = 'after' where id = 8");
        await drain(db, 2);

        expect(await runs(db)).toEqual([...waiting, "count 8", "greet 8", "greet 8", "ship 3"].sort());
        expect(await db.query("select key::int as run from notika_worker._private_jobs where run_at > now()")).toEqual([
          { run: 3 },
          { run: 4 },
        ]);
        expect(db.warnings).toContain(
          "notika: this database was restored from another cluster; the cursor was rebased",
        );
        const left = (await findings(db)).map(({ finding }) => finding);
        expect(left).toEqual(isLimited ? ["guard", "form_outdated"] : name.includes("triggers") ? ["guard"] : []);
      });

      test("is put right by its owner's install, before or after the first run, and guarded by an administrator's", async () => {
        const db = await copy(fill, prepare);
        await db.query(`set role ${await owner(db)}`);

        const [first, second] = [await steps(db), await steps(db)];

        expect(first.cursor).toBe("rebased");
        expect(Object.entries(second).filter(([, outcome]) => !["ok", "limited"].includes(outcome))).toEqual([]);
        await db.query("reset role");
        await db.query("insert into app.users values (8, 'new')");
        await drain(db);
        expect(await runs(db)).toEqual([...waiting, "count 8", "greet 8"].sort());
        expect(await findings(db)).toEqual(
          isLimited
            ? [
                {
                  finding: "guard",
                  severity: "warning",
                  detail: expect.stringContaining("there are no event triggers"),
                },
              ]
            : [],
        );

        const [third, fourth] = [await steps(db), await steps(db)];

        // With the guard there the form of the workflows is another.
        expect([third.guard, third["workflow greet"]]).toEqual(isLimited ? ["created", "repaired"] : ["ok", "ok"]);
        expect(Object.entries(fourth).filter(([, outcome]) => outcome !== "ok")).toEqual([]);
        expect(await findings(db)).toEqual([]);
        await expect(
          db.database.script(
            "begin; set local session_replication_role = replica; alter table app.users drop email; commit",
          ),
        ).rejects.toMatchObject({ code: "NK001" });
      });
    });

    describe.each([
      ["without its owners", ["--no-owner"]],
      ["without its owners and rights", ["--no-owner", "--no-acl"]],
    ])("%s by a superuser, to whom it belongs then", (_, options) => {
      const fill = (url: string) => tools.restore(dumps.whole, url, ...options, "--exit-on-error");

      test("captures and runs, and refuses whatever is requested of it, also by that superuser", async () => {
        const db = await copy(fill);
        expect(await owner(db)).toBe("postgres");

        await db.query("insert into app.users values (8, 'new')");
        await drain(db);

        expect(await runs(db)).toEqual([...waiting, "count 8", "greet 8"].sort());
        for (const request of [
          "select notika.publish('later', 'app.users')",
          "select notika.unpublish('greet')",
          "select notika.pause('greet')",
          "select notika.retry(1)",
          "select notika.backfill('greet')",
          "select notika.grant_runner('dba')",
          "select notika.allow_breaking_change('greet', 'test')",
          "select * from notika.install()",
        ]) {
          await expect(db.query(request), request).rejects.toMatchObject({
            code: "55000",
            message: 'notika is owned by superuser "postgres"',
            hint: expect.stringContaining("npx notika install"),
          });
        }
        expect(await findings(db)).toContainEqual({
          finding: "superuser_owner",
          severity: "error",
          detail: expect.stringContaining('Notika is owned by superuser "postgres"'),
        });
      });

      test("is moved to an ordinary owner by an administrator's install, with what it had published", async () => {
        const db = await copy(fill);

        const { steps } = await install(db.database);

        expect(await owner(db)).toBe("notika");
        expect(
          await db.query(`
            select distinct proowner::regrole::text as owner from pg_proc
             where pronamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace) order by 1`),
        ).toEqual([{ owner: "notika" }, { owner: "notika_guard" }]);
        expect(steps.find(({ step }) => step === "guard")?.outcome).toBe("created");
        await grantWhatIsMissing(db);
        expect((await install(db.database)).steps.filter(({ outcome }) => outcome === "failed")).toEqual([]);
        expect(await findings(db)).toEqual([]);
        await db.query("select notika.pause('greet'), notika.resume('greet')");
        await db.query("insert into app.users values (8, 'new')");
        await drain(db);
        expect(await runs(db)).toEqual([...waiting, "count 8", "greet 8"].sort());
        await expect(db.query("alter table app.users drop email")).rejects.toMatchObject({ code: "NK001" });
      });
    });

    test("runs nothing when its workflows are paused, as the finding says", async () => {
      const db = await copy((url) => tools.psql(dumps.script, url));
      const [{ remedy = "" } = {}] = await db.query<{ remedy: string }>(
        "select remedy from notika.health where finding = 'copy'",
      );

      await db.query(remedy.replace(/^.*first: /, ""));
      await db.query("select notika.dispatch()");
      await drain(db);

      expect(await db.query("select state, count(*)::int from notika.runs group by state order by state")).toEqual([
        { state: "held", count: 7 },
        { state: "waiting", count: 2 },
      ]);
    });

    describe("without its data", () => {
      const fill = (url: string) => tools.psql(dumps.schema, url);

      test("takes writes, and says what it is and what mends it", async () => {
        const db = await copy(fill);

        await db.database.script("insert into app.users values (1, 'ada'); insert into app.orders values (1)");

        expect(await db.query("select finding, severity, detail, remedy from notika.check()")).toEqual([
          {
            finding: "copy",
            severity: "error",
            detail: "this is a copy without its data: captured events are never dispatched",
            remedy: "npx notika install",
          },
        ]);
        await expect(db.query("select notika.dispatch()")).rejects.toMatchObject({
          code: "55000",
          hint: expect.stringContaining("npx notika install"),
        });
        await expect(db.query("select * from notika.install()")).rejects.toMatchObject({
          code: "55000",
          message: "this is a copy of Notika without its data",
          hint: "Install it again: npx notika install, or psql with what npx notika sql prints.",
        });
      });

      test("is installed anew, and what is published then wakes its workflow once", async () => {
        const db = await copy(fill);
        await db.query("insert into app.users values (1, 'ada')");

        const { applied } = await install(db.database);
        expect(applied).toEqual((await committedMigrations()).map(({ name }) => name));
        expect(db.warnings).toEqual([
          "notika: this was a copy without data; it was installed again and nothing is published",
        ]);
        await db.query("insert into app.users values (2, 'bob')");
        await db.database.script(publish);
        await db.query("insert into app.users values (3, 'cy')");
        await drain(db);

        expect(await runs(db)).toEqual(["count 3", "greet 3"]);
        expect(await findings(db)).toEqual([]);
        expect((await install(db.database)).applied).toEqual([]);
      });

      test("is installed anew by a role that may not create schemas", async () => {
        const db = await copy((url) => {
          restore(tools.dump(url0(), "--schema-only", "--format=custom"), url, "--no-owner", "--role=keeper");
        }, `grant create on database "DATABASE" to keeper`);
        await db.database.script(`
        do $$ begin execute format('revoke create on database %I from keeper', current_database()); end $$;
        set role keeper`);

        await install(db.database);
        await db.database.script(publish);
        await db.query("insert into app.users values (3, 'cy')");
        await drain(db);

        expect(await runs(db)).toEqual(["count 3", "greet 3"]);
      });

      test("is not installed over what somebody has built on it", async () => {
        const db = await copy(fill);
        await db.query("create view app.failures as select run_id from notika.runs where state = 'failed'");

        await expect(install(db.database)).rejects.toMatchObject({
          code: "2BP01",
          message: "cannot install over a copy of Notika without its data: view app.failures depends on it",
          hint: "Drop what depends on it, install, and create it again.",
        });
        await db.query("drop view app.failures");
        await install(db.database);
      });
    });

    describe("only its data, into a database with Notika and the same schema", () => {
      const target = async (fill: (url: string) => void) => {
        const db = await copy(() => {});
        await installed(db.url, `${schema} ${publish}`);
        fill(db.url);
        return db;
      };
      const own = () => tools.dump(url, "--data-only", "--format=custom", ...without);

      test("wakes its workflows for each row, for a load is a change", async () => {
        const db = await target((url) => tools.restore(own(), url, "--exit-on-error"));
        await drain(db);

        expect(await runs(db)).toEqual([
          "count 1",
          "count 2",
          "count 3",
          "greet 1",
          "greet 2",
          "greet 3",
          "ship 1",
          "ship 2",
        ]);
      });

      test.each([
        ["triggers are disabled", (url: string) => tools.restore(own(), url, "--disable-triggers", "--exit-on-error")],
        [
          "the load is muted",
          (url: string) => tools.restore(own(), `${url}?options=-c%20notika.mute%3Don`, "--exit-on-error"),
        ],
      ])("wakes nobody when %s, and everybody afterwards", async (_, fill) => {
        const db = await target(fill);
        await drain(db);
        expect(await runs(db)).toEqual([]);

        await db.query("insert into app.users values (8, 'new')");
        await drain(db);

        expect(await runs(db)).toEqual(["count 8", "greet 8"]);
        expect(await findings(db)).toEqual([]);
        expect(await db.query("select count(*)::int from app.users")).toEqual([{ count: 4 }]);
      });

      test("runs none of the events that came along when Notika's data was not left out", async () => {
        const db = await target((url) => {
          const complaints = restore(dumps.data, url, "--disable-triggers");
          expect(complaints.join()).toContain('COPY failed for table "position"');
        });
        await db.query("select * from notika.install()");
        await drain(db);
        await db.query("insert into app.users values (8, 'new')");
        await drain(db);

        // The jobs that came along have the names of their workflows and are sound.
        expect(await runs(db)).toEqual([...handedOver, "count 8", "greet 8"].sort());
        expect(await findings(db)).toEqual([]);
        await db.query("update notika.setting set segment_age = '1 microsecond'");
        for (let turn = 0; turn < 3; turn++) {
          await db.query("insert into app.orders values (4)");
          await drain(db);
          expect(await db.query("select * from notika.maintain()")).toHaveLength(1);
        }
      });
    });

    test("can be dumped while its ring turns, and nobody's write waits for the dump", async () => {
      const db = await openArena(original);
      open.push(db);
      await db.query("update notika.setting set segment_age = '1 microsecond'");
      let isDumping = true;
      const [waited, turns]: [number[], string[]] = [[], []];
      const writer = await db.connect();
      const writing = (async () => {
        for (let id = 1; isDumping; id++) {
          const start = performance.now();
          await writer.query(`insert into item values (${id})`);
          waited.push(performance.now() - start);
        }
      })();
      const turning = (async () => {
        while (isDumping) {
          await drain(db);
          turns.push(await db.value("select string_agg(said, '; ') from notika.maintain() as said"));
        }
      })();

      const said = (words: string) => turns.some((turn) => turn?.includes(words));
      // A dump is short: whether the ring turns or finds itself in use meanwhile is a matter of chance.
      for (let dump = 0; dump < 40 && (dump < 3 || !said("turned") || !said("in use")); dump++) {
        await promisify(execFile)(findProgram("pg_dump") as string, ["--dbname", db.url, "--file", "/dev/null"]);
      }
      isDumping = false;
      await Promise.all([writing, turning]);
      await drain(db);

      expect([said("turned"), said("in use")]).toEqual([true, true]);
      expect(Math.max(...waited)).toBeLessThan(5000);
      expect(
        await db.query(
          "select count(*)::int as jobs, count(distinct key)::int as events from notika_worker._private_jobs",
        ),
      ).toEqual([{ jobs: waited.length, events: waited.length }]);
    });

    test("gives nobody rights that he had not, when it was restored without them and installed", async () => {
      const db = await copy((url) => tools.restore(dumps.whole, url, "--no-acl", "--exit-on-error"));
      const open = `
      select count(*)::int as functions from pg_proc
       where pronamespace = 'notika'::regnamespace and has_function_privilege('public', oid, 'execute')`;
      expect((await db.query<{ functions: number }>(open))[0]?.functions).toBeGreaterThan(100);

      // Its owner has lost the schema of the tables, and cannot name what takes their rows.
      expect(
        await db.database.execute(sql`select outcome, detail from notika.install() where step = 'rights'`),
      ).toEqual([
        { outcome: "failed", detail: expect.stringContaining("first: grant usage on schema app to notika;") },
      ]);
      expect(await db.query(`${open} and proname !~ '^payload_[0-9]+$'`)).toEqual([{ functions: 0 }]);
      expect((await findings(db)).map(({ finding }) => finding)).toContain("surplus_rights");
      await grantWhatIsMissing(db);

      expect((await steps(db)).rights).toBe("repaired");

      expect(await db.query(open)).toEqual([{ functions: 0 }]);
      expect((await steps(db)).rights).toBe("ok");
      expect(await findings(db)).toEqual([]);
    });

    test("comes without Notika when its schemas are left out", async () => {
      const db = await copy((url) => {
        const complaints = restore(tools.dump(url0(), "--format=custom", ...without), url);
        expect(complaints.filter((complaint) => !/notika/.test(complaint))).toEqual([]);
      });

      await db.query("insert into app.users values (8, 'ada')");
      await installed(db.url, publish);
      await db.query("insert into app.users values (9, 'bob')");
      await drain(db);

      expect(await runs(db)).toEqual(["count 9", "greet 9"]);
      expect(await findings(db)).toEqual([]);
    });

    const url0 = () => url;
  },
);

const without = ["--exclude-schema=notika", "--exclude-schema=notika_worker"];

async function installed(url: string, script: string): Promise<void> {
  const database = openDatabase({ connect: url, connections: 1 });
  await install(database);
  await database.script(`${workflowWithoutTable} ${script}`);
  await database.close();
}

/** Workflow and row of each run that has not ended. */
async function runs(db: Session): Promise<string[]> {
  const rows = await db.query<{ run: string }>(
    "select workflow || ' ' || (event -> 'new' ->> 'id') as run from notika.runs order by run",
  );
  return rows.map(({ run }) => run);
}

async function findings(db: Session) {
  return db.query<{ finding: string; severity: string; detail: string }>(
    "select finding, severity, detail from notika.check() where finding <> 'ring'",
  );
}

async function owner(db: Session): Promise<string> {
  return db.value("select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'notika'");
}

/** As health says it. */
async function grantWhatIsMissing(db: Session): Promise<void> {
  const remedies = await db.query<{ remedy: string }>(
    "select distinct remedy from notika.health where finding ~ '_missing$' and remedy ~ '^grant '",
  );
  for (const { remedy } of remedies) await db.query(remedy);
}

/** What install did, by step. */
async function steps(db: Session): Promise<Record<string, string>> {
  const rows = await db.database.execute<{ step: string; outcome: string }>(
    sql`select step, outcome from notika.install()`,
  );
  return Object.fromEntries(rows.map(({ step, outcome }) => [step, outcome]));
}
