import sql, { raw } from "sql-template-tag";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type Database, openDatabase } from "../../runner/database/database.ts";
import type { Major } from "../support/binaries.ts";
import { isThorough } from "../support/database.ts";
import { installed, startInstalled } from "../support/installed.ts";
import { type Chain, graphileWorker, medusaProduct, unleash, workflowWorld } from "./others.ts";

const major = Number(process.env.NOTIKA_TEST_POSTGRES ?? 18) as Major;

let server: Awaited<ReturnType<typeof startInstalled>>;

beforeAll(async () => {
  server = await startInstalled({ major });
  const model = openDatabase({ connect: await server.createDatabase("model", installed) });
  // As `notika grant --schema` has it: tables that take the place of others can be captured, too.
  await model.script("alter default privileges grant select, trigger on tables to notika").finally(model.close);
});
afterAll(() => server?.stop());

interface Story {
  chain(): Promise<Chain>;
  /** What is published after a migration: the arguments of notika.publish. */
  publish: Record<string, Record<string, string>>;
  /** What a migration does to the workflows; any other migration does nothing to any. */
  verdicts: Verdicts;
  /** What the statements do when each is a transaction. */
  alone?: Verdicts | "the same";
  /** A write for each workflow that is left, and its event. */
  writes: Record<string, [write: string, event: object]>;
}
/** The refusals, then what the guard has noted of the workflows that are left. */
type Verdicts = Record<string, string[]>;

const stories: Record<string, Story> = {
  "graphile-worker": {
    chain: graphileWorker,
    publish: {
      "000010": {
        job_added: `'worker.jobs', columns => '{id,payload}'`,
        job_retried: `'worker.jobs', '{update}', '{id,attempts}'`,
        queue_named: `'worker.job_queues', columns => '{queue_name}', condition => 'length(new.queue_name) > 1'`,
        queue_grew: `'worker.job_queues', '{update}', '{queue_name}', watch => '{job_count}'`,
        cron_known: `'worker.known_crontabs', columns => '{identifier}'`,
        cron_pinned: `'worker.known_crontabs', columns => '{identifier}', on_rename => 'block'`,
      },
    },
    verdicts: {
      "000011": [
        `cannot drop column "job_count" of table worker.job_queues because Notika's workflow "queue_grew" uses it`,
        "job_added: healed table replaced worker.jobs",
        "job_retried: followed type narrowed worker.jobs.attempts: smallint instead of integer",
        "job_retried: healed table replaced worker.jobs",
        "queue_named: healed table replaced worker.job_queues",
      ],
      "000016": [
        `cannot rename table worker.known_crontabs to worker._private_known_crontabs because Notika's workflow "cron_pinned" uses it`,
        "cron_known: followed table renamed worker.known_crontabs: worker._private_known_crontabs instead of worker.known_crontabs",
        "job_added: followed table renamed worker.jobs: worker._private_jobs instead of worker.jobs",
        "job_retried: followed table renamed worker.jobs: worker._private_jobs instead of worker.jobs",
        "queue_named: followed table renamed worker.job_queues: worker._private_job_queues instead of worker.job_queues",
      ],
    },
    alone: {
      "000011": [
        "job_retried: followed type narrowed worker.jobs.attempts: smallint instead of integer",
        "job_added: followed table renamed worker.jobs: worker.jobs_legacy instead of worker.jobs",
        "job_retried: followed table renamed worker.jobs: worker.jobs_legacy instead of worker.jobs",
        "queue_grew: followed table renamed worker.job_queues: worker.job_queues_legacy instead of worker.job_queues",
        "queue_named: followed table renamed worker.job_queues: worker.job_queues_legacy instead of worker.job_queues",
        `cannot drop table worker.jobs_legacy because Notika's workflow "job_added" uses it`,
        `cannot drop table worker.jobs_legacy because Notika's workflow "job_retried" uses it`,
        `cannot drop table worker.job_queues_legacy because Notika's workflow "queue_grew" uses it`,
        `cannot drop table worker.job_queues_legacy because Notika's workflow "queue_named" uses it`,
      ],
      "000016": [
        `cannot rename table worker.known_crontabs to worker._private_known_crontabs because Notika's workflow "cron_pinned" uses it`,
        "cron_known: followed table renamed worker.known_crontabs: worker._private_known_crontabs instead of worker.known_crontabs",
      ],
    },
    writes: {
      job_added: [
        `select worker.add_job('greet', '{"to": "ada"}')`,
        { id: expect.stringMatching(/^\d+$/), payload: { to: "ada" } },
      ],
      job_retried: [
        "update worker._private_jobs set attempts = 1",
        { id: expect.stringMatching(/^\d+$/), attempts: 1 },
      ],
      queue_named: [`select worker.add_job('greet', queue_name => 'mail')`, { queue_name: "mail" }],
      cron_known: [
        `insert into worker._private_known_crontabs (identifier, known_since) values ('nightly', now())`,
        { identifier: "nightly" },
      ],
    },
  },
  "@workflow/world-postgres": {
    chain: workflowWorld,
    publish: {
      "0000_cultured_the_anarchist": {
        run_failed: `'workflow.workflow_runs', '{update}', '{id,error_code}'`,
        run_ended: `'workflow.workflow_runs', '{update}', '{id}', watch => '{status}'`,
        run_added: `'workflow.workflow_runs', columns => '{id,name}'`,
        step_failed: `'workflow.workflow_steps', '{update}', '{step_id}', condition => 'new.error_code is not null'`,
        step_added: `'workflow.workflow_steps', columns => '{step_id,status}'`,
        chunk_added: `'workflow.workflow_stream_chunks'`,
      },
    },
    verdicts: {
      "0001_tricky_sersi": [
        `cannot drop column "error_code" of table workflow.workflow_runs because Notika's workflow "run_failed" uses it`,
        `cannot drop column "error_code" of table workflow.workflow_steps because Notika's workflow "step_failed" uses it`,
      ],
      "0004_remove_run_pause_status": [
        `cannot change the type of column "status" of table workflow.workflow_runs from {pending,running,completed,failed,paused,cancelled} to {pending,running,completed,failed,cancelled} because Notika's workflow "run_ended" uses it`,
      ],
    },
    alone: {
      "0001_tricky_sersi": [
        `cannot drop column "error_code" of table workflow.workflow_runs because Notika's workflow "run_failed" uses it`,
        `cannot drop column "error_code" of table workflow.workflow_steps because Notika's workflow "step_failed" uses it`,
      ],
      "0004_remove_run_pause_status": [
        `cannot change the type of column "status" of table workflow.workflow_runs from public.status to public.status_new because Notika's workflow "run_ended" uses it`,
      ],
    },
    writes: {
      run_added: [
        `insert into workflow.workflow_runs (id, deployment_id, status, name) values ('r', 'd', 'pending', 'mail')`,
        { id: "r", name: "mail" },
      ],
      step_added: [
        `insert into workflow.workflow_steps (run_id, step_id, step_name, status, attempt)
         values ('r', 's', 'send', 'running', 1)`,
        { step_id: "s", status: "running" },
      ],
      chunk_added: [
        `insert into workflow.workflow_stream_chunks (id, stream_id, data, eof, run_id) values ('c', 's', 'x', true, 'r')`,
        expect.objectContaining({ id: "c", stream_id: "s", eof: true, run_id: "r" }),
      ],
    },
  },
  "@medusajs/product": {
    chain: medusaProduct,
    publish: {
      InitialSetup20240401153642: {
        product_added: `'public.product', columns => '{id,status}', condition => 'new.status <> ''draft'''`,
        category_ranked: `'public.product_category', '{update}', '{id}', watch => '{rank}'`,
        variant_added: `'public.product_variant', columns => '{id,title,sku}'`,
        variant_weighed: `'public.product_variant', '{insert,update}', '{id,weight}'`,
        image_linked: `'public.product_images'`,
        option_added: `'public.product_option', columns => '{title,product_id}'`,
        option_titled: `'public.product_option', columns => '{title}'`,
      },
      Migration20241125090957: { product_weighed: `'public.product', columns => '{id,weight}'` },
    },
    verdicts: {
      Migration20240601111544: [
        `cannot change the type of column "rank" of table public.product_category from numeric to integer because Notika's workflow "category_ranked" uses it`,
      ],
      Migration20241122120331: [
        `cannot drop table public.product_images because Notika's workflow "image_linked" uses it`,
      ],
      Migration20241125090957: [
        `cannot change the type of column "weight" of table public.product_variant from numeric to integer because Notika's workflow "variant_weighed" uses it`,
      ],
      Migration20251022153442: [
        `cannot drop column "product_id" of table public.product_option because Notika's workflow "option_added" uses it`,
      ],
      Migration20260301002050: [
        `cannot change the type of column "weight" of table public.product from text to real because Notika's workflow "product_weighed" uses it`,
      ],
    },
    alone: "the same",
    writes: {
      product_added: [
        `insert into product (id, title, handle, status) values ('p', 'Pen', 'pen', 'published')`,
        { id: "p", status: "published" },
      ],
      variant_added: [
        `insert into product_variant (id, title, sku, product_id) values ('v', 'Blue', 'P-B', 'p')`,
        { id: "v", title: "Blue", sku: "P-B" },
      ],
      option_titled: [`insert into product_option (id, title) values ('o', 'Colour')`, { title: "Colour" }],
    },
  },
  "unleash-server": {
    chain: unleash,
    publish: {
      "20211209205201-drop-client-metrics": {
        metric_counted: `'public.client_metrics_env', '{insert,update}', '{feature_name,yes}'`,
        token_added: `'public.api_tokens', columns => '{username,type}'`,
        legal_values_changed: `'public.context_fields', '{update}', '{name}', watch => '{legal_values}'`,
        context_field_added: `'public.context_fields', columns => '{name,description}'`,
        feature_archived: `'public.features', '{update}', '{name}', condition => 'new.archived and not old.archived'`,
        feature_added: `'public.features', columns => '{name,type}'`,
        group_role_added: `'public.role_permission', columns => '{permission_id}'`,
        user_added: `'public.users', columns => '{email,image_url}'`,
      },
      "20220816121136-add-metadata-to-api-keys": {
        token_described: `'public.api_tokens', columns => '{username,metadata}'`,
      },
      "20230222084211-add-login-events-table": {
        login_failed: `'public.login_events', columns => '{username,auth_type}', condition => 'not new.successful'`,
      },
      "20231012082537-message-banners": {
        banner_shown: `'public.message_banners', '{insert,update}', '{message}', watch => '{enabled}'`,
        banner_pinned: `'public.message_banners', columns => '{message}', on_rename => 'block'`,
      },
      "20231215105713-incoming-webhooks": {
        webhook_token_added: `'public.incoming_webhook_tokens', columns => '{name,incoming_webhook_id}',
                              condition => 'new.secret <> '''' and new.incoming_webhook_id > 0'`,
      },
      "20240102205517-observable-events": {
        observed: `'public.observable_events', columns => '{source,created_by_incoming_webhook_token_id}'`,
        observed_whole: `'public.observable_events'`,
      },
    },
    verdicts: {
      "20220129113106-metrics-counters-as-bigint": [
        `cannot change the type of column "yes" of table public.client_metrics_env from integer to bigint because Notika's workflow "metric_counted" uses it`,
      ],
      "20220411103724-add-legal-value-description": [
        `cannot change the type of column "legal_values" of table public.context_fields from text to json because Notika's workflow "legal_values_changed" uses it`,
      ],
      "20220817130250-alter-api-tokens": [
        `cannot drop column "metadata" of table public.api_tokens because Notika's workflow "token_described" uses it`,
      ],
      "20230227115320-rename-login-events-table-to-sign-on-log": [
        "login_failed: followed table renamed public.login_events: public.sign_on_log instead of public.login_events",
      ],
      "20230302133740-rename-sign-on-log-table-to-login-history": [
        "login_failed: followed table renamed public.sign_on_log: public.login_history instead of public.sign_on_log",
      ],
      "20231019110154-rename-message-banners-table-to-banners": [
        `cannot rename table public.message_banners to public.banners because Notika's workflow "banner_pinned" uses it`,
        "banner_shown: followed table renamed public.message_banners: public.banners instead of public.message_banners",
      ],
      "20231218165612-inc-webhook-tokens-rename-secret-to-token": [
        "webhook_token_added: followed column renamed public.incoming_webhook_tokens.secret: token instead of secret",
      ],
      "20240116104456-drop-unused-column-permissionid": [
        `cannot drop column "permission_id" of table public.role_permission because Notika's workflow "group_role_added" uses it`,
      ],
      "20240125085703-users-table-increae-image-url-size": [
        "user_added: warned type widened public.users.image_url: text instead of character varying(255)",
      ],
      "20240304084102-rename-observable-events-to-signals": [
        "observed: followed column renamed public.observable_events.created_by_incoming_webhook_token_id: created_by_source_token_id instead of created_by_incoming_webhook_token_id",
        "observed: followed table renamed public.observable_events: public.signals instead of public.observable_events",
        "observed_whole: followed table renamed public.observable_events: public.signals instead of public.observable_events",
        "webhook_token_added: followed column renamed public.incoming_webhook_tokens.incoming_webhook_id: signal_endpoint_id instead of incoming_webhook_id",
        "webhook_token_added: followed table renamed public.incoming_webhook_tokens: public.signal_endpoint_tokens instead of public.incoming_webhook_tokens",
      ],
      "20240305094305-features-remove-archived": [
        `cannot drop column "archived" of table public.features because Notika's workflow "feature_archived" uses it`,
      ],
    },
    writes: {
      token_added: [
        `insert into api_tokens (secret, username, token_name, type) values ('x', 'ci', 'ci', 'client')`,
        { username: "ci", type: "client" },
      ],
      context_field_added: [
        `insert into context_fields (name, description) values ('country', 'of the user')`,
        { name: "country", description: "of the user" },
      ],
      feature_added: [
        `insert into features (name, type) values ('dark', 'release')`,
        { name: "dark", type: "release" },
      ],
      user_added: [
        `insert into users (email, image_url) values ('ada@example.com', 'ada.png')`,
        { email: "ada@example.com", image_url: "ada.png" },
      ],
      login_failed: [
        `insert into login_history (username, auth_type, successful) values ('ada', 'simple', true), ('eve', 'simple', false)`,
        { username: "eve", auth_type: "simple" },
      ],
      banner_shown: [
        `insert into banners (message, enabled) values ('down at noon', false);
         update banners set enabled = false;`,
        { message: "down at noon" },
      ],
      webhook_token_added: [
        `insert into signal_endpoints (name, created_by_user_id) values ('ci', 1);
         insert into signal_endpoint_tokens (name, token, signal_endpoint_id, created_by_user_id)
         select 'ci', 't', id, 1 from signal_endpoints;`,
        { name: "ci", incoming_webhook_id: 1 },
      ],
      observed: [
        `insert into signals (source, source_id, created_by_source_token_id) values ('ci', 1, 2)`,
        { source: "ci", created_by_incoming_webhook_token_id: 2 },
      ],
      observed_whole: [
        `insert into signals (source, source_id, created_by_source_token_id) values ('ci', 3, 4)`,
        expect.objectContaining({ source: "ci", source_id: 3, created_by_source_token_id: 4 }),
      ],
    },
  },
};

// The longest chain by far, and nothing that is not in the others.
const told = Object.entries(stories).filter(([name]) => isThorough || name !== "unleash-server");

describe.each(told)("the migrations of %s", (name, story) => {
  const ways: [how: string, verdicts: Verdicts, alone: boolean][] = [["each a transaction", story.verdicts, false]];
  const alone = story.alone === "the same" ? story.verdicts : story.alone;
  if (alone && (isThorough || name === "graphile-worker")) ways.push(["each statement a transaction", alone, true]);

  test.for(ways)("pass, but for what breaks a workflow, %s", async ([, verdicts, alone], { skip, onTestFinished }) => {
    const chain = await story.chain().catch((error) => skip(`${name} cannot be had: ${error.message}`));
    const database = openDatabase({ connect: await server.createDatabase(undefined, "model"), connections: 1 });
    onTestFinished(database.close);

    const { seen, left } = await migrateAll(database, chain, story, alone);
    const events = await writeFor(database, story, left);

    expect(seen).toEqual(verdicts);
    expect(events).toEqual(left.map((workflow) => [workflow, story.writes[workflow]?.[1]]));
  });
});

/** Runs a chain; what is refused is run again without the workflow that it breaks. */
async function migrateAll(database: Database, chain: Chain, story: Story, alone: boolean) {
  const ask = <Row extends object>(query: string) => database.execute<Row>(raw(query));
  const seen: Verdicts = {};
  const left = new Set<string>();

  for (const { name, queries } of chain) {
    const sent = (await queries(ask)).filter((query) => query.trim());
    const transactions = alone ? await statements(database, sent) : [sent];
    for (const transaction of transactions) {
      const foreseen = await foresee(database, transaction);
      const { refusals, ...happened } = await migrate(database, transaction);
      expect({ name, ...foreseen }).toEqual({ name, ...happened });

      for (const workflow of happened.broken) left.delete(workflow);
      const verdicts = [...refusals, ...happened.notes];
      if (verdicts.length > 0) seen[name] = [...(seen[name] ?? []), ...verdicts];
    }
    for (const [workflow, contract] of Object.entries(story.publish[name] ?? {})) {
      await ask(`select notika.publish('${workflow}', ${contract})`);
      left.add(workflow);
    }
  }
  expect(await ask("select * from notika.check() where workflow is not null")).toEqual([]);
  return { seen, left: [...left] };
}

/** What the guard does to a transaction: whom it breaks, and what is noted of the others. */
interface Outcome {
  broken: string[];
  notes: string[];
}

async function migrate(database: Database, transaction: string[]): Promise<Outcome & { refusals: string[] }> {
  const refusals: string[] = [];
  const broken: string[] = [];
  for (;;) {
    const refusal = await database
      .transaction(async (execute) => {
        for (const workflow of broken) await execute(sql`select notika.unpublish(${workflow})`);
        for (const query of transaction) await execute(raw(query));
      })
      .catch((error) => {
        if (error.code !== "NK001") throw error;
        return error as Error;
      });
    if (!refusal) break;
    refusals.push(refusal.message);
    broken.push(/workflow "(.*)"/.exec(refusal.message)?.[1] ?? "");
  }
  const notes = await database.execute<{ note: string }>(sql`
    with noted as (delete from notika.guard_log returning *)
    select format('%s: %s %s %s', workflow, verdict, replace(kind, '_', ' '), object)
             || coalesce(': ' || actual || ' instead of ' || expected, '') as note
      from noted`);
  return { refusals: refusals.sort(), broken: broken.sort(), notes: notes.map(({ note }) => note).sort() };
}

async function foresee(database: Database, transaction: string[]): Promise<Outcome> {
  const rows = await database.execute<{ workflow: string; verdict: string; problem: string }>(
    sql`select workflow, verdict, problem from notika.check_ddl(${transaction.join("\n;\n")})`,
  );
  const broken = new Set(rows.filter(({ verdict }) => verdict === "breaks").map(({ workflow }) => workflow));
  const others = rows.filter(({ workflow }) => !broken.has(workflow));
  return {
    broken: [...broken].sort(),
    notes: others
      .map(({ workflow, verdict, problem }) => `${workflow}: ${verdict.replace("warns", "warned")} ${problem}`)
      .sort(),
  };
}

async function statements(database: Database, queries: string[]) {
  const split = await Promise.all(
    queries.map((query) => database.execute<{ statement: string }>(sql`select statement from notika._split(${query})`)),
  );
  return split.flat().map(({ statement }) => [statement]);
}

/** Writes what a workflow waits for and gives the event that it gets. */
async function writeFor(database: Database, story: Story, workflows: string[]) {
  const events: [workflow: string, event: unknown][] = [];
  for (const workflow of workflows) {
    await database.execute(sql`delete from notika.event_log_0`);
    await database.execute(raw(story.writes[workflow]?.[0] ?? "select"));
    const captured = await database.execute<{ new: unknown }>(
      sql`select new from notika.event_log where workflow = ${workflow}`,
    );
    events.push([workflow, captured.length === 1 ? captured[0]?.new : captured]);
  }
  return events;
}
