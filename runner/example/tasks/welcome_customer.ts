import { workflow } from "notika";

/** Welcomes each new customer with an email address. */
export default workflow({
  on: {
    table: "shop.customers",
    operations: ["insert"],
    columns: ["id", "name", "email"],
    condition: "new.email is not null",
  },
  async run({ event, log }) {
    log.info(`Dear ${event.new.name}, welcome!`, { to: event.new.email });
  },
});
