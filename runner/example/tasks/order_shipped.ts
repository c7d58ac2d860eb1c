import { sql, workflow } from "notika";

/** Notifies the customer when an order is shipped: runs only when its status changes to shipped. */
export default workflow({
  on: {
    table: "shop.orders",
    operations: ["update"],
    columns: ["id", "customer_id", "total", "status"],
    watch: ["status"],
    condition: "new.status = 'shipped'",
  },
  async run({ event, query, log }) {
    const [customer] = await query<{ name: string }>(
      sql`select name from shop.customers where id = ${event.new.customer_id}`,
    );
    log.info(`${customer?.name}, your order is on its way`, { order: event.new.id, total: event.new.total });
  },
});
