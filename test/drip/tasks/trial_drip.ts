import { sql, workflow } from "../../../runner/index.ts";

/** A day lasts as long as the test that runs this says. */
const days = (count: number) => count * Number(process.env.DRIP_DAY_MS ?? 86_400_000);

export default workflow({
  on: { table: "app.users", columns: ["id", "email"] },
  waitsFor: {
    payment: { table: "app.payments", operations: ["insert"], columns: ["user_id", "amount"], match: ["user_id"] },
  },
  async run({ event, step, query }) {
    const { id, email } = event.new;
    /** An outside effect: nothing ties it to the memory of its step. */
    const mail = (to: string, text: string, key: string) =>
      query(
        sql`insert into app.mails (run_id, recipient, text, key) values (${event.id}::text::bigint, ${to}, ${text}, ${key})`,
      );
    const note = (text: string) =>
      sql`insert into app.notes (run_id, text) values (${event.id}::text::bigint, ${text}) returning text`;

    await step.run("welcome", ({ idempotencyKey }) => mail(email, "welcome", idempotencyKey));
    await step.query("note the start", note("began"));
    await step.sleep("let them look around", days(3));

    const [user] = await step.query<{ plan: string }>("look", sql`select plan from app.users where id = ${id}`);
    if (user?.plan === "pro") return step.query("note an early end", note("pro already"));

    const admins = await step.query<{ email: string }>(
      "find admins",
      sql`select email from app.users where plan = 'admin' order by email`,
    );
    await step.each(
      "tell",
      admins,
      ({ email }) => email,
      ({ email: to }, { idempotencyKey }) => mail(to, `${email} is still free`, idempotencyKey),
    );

    const payment = await step.waitFor(
      "payment",
      { table: "app.payments", match: { user_id: id } },
      { timeout: `${days(7)} milliseconds` },
    );
    const plan = payment ? "pro" : "ended";
    await step.transaction("change the plan", async (query) => {
      await query(sql`update app.users set plan = ${plan} where id = ${id}`);
      await query(note(payment ? `paid ${payment.new?.amount}` : "timed out"));
    });
    await step.run("say goodbye", ({ idempotencyKey }) => mail(email, plan, idempotencyKey));
  },
});
