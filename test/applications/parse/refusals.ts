import type { Api } from "../harness/api.ts";
import type { Refusal, Stage } from "../harness/application.ts";
import { configure } from "./index.ts";

/** The schema that it knows, its rows, and a write. */
const look = (className: string, body: object) => async (api: Api) => {
  await api.send(`GET /schemas/${className}`);
  const { results } = await api.send(`GET /classes/${className}?order=createdAt&limit=1&keys=objectId`);
  for (const { objectId } of results) await api.send(`PUT /classes/${className}/${objectId}`, { body });
  await api.send(`GET /classes/${className}?order=createdAt&limit=1`);
};

const shape = { name: { type: "String" }, size: { type: "String" } };

/** Starts it with the classes as code has them, and without again. */
async function migrate({ api, place, restart }: Stage, fields: object) {
  const definitions = [{ className: "Item", fields }];
  configure(place, {
    schema: { definitions, lockSchemas: false, strict: false, recreateModifiedFields: true, deleteExtraFields: true },
  });
  await restart();
  const start = api.answers.length;
  const isThere = "stock" in (await api.send("GET /schemas/Item")).fields;
  api.answers.splice(start); // its log says nothing of it while it starts, so what it left decides
  const outcome = isThere ? "the field is still there" : "the field is gone";
  api.answers.push({ request: "start", status: isThere ? 500 : 200, body: outcome, normalised: outcome });
  configure(place, {});
  await restart();
}

export const refusals: Refusal[] = [
  {
    title: "a field that an event carries is deleted",
    workflow: "order_moved",
    send: ({ api }) => api.send("PUT /schemas/Order", { body: { fields: { area: { __op: "Delete" } } } }),
    look: look("Order", { note: "seen" }),
  },
  {
    title: "two fields are deleted, one of which is watched",
    workflow: "order_readdressed",
    send: ({ api }) =>
      api.send("PUT /schemas/Order", { body: { fields: { note: { __op: "Delete" }, tags: { __op: "Delete" } } } }),
    look: look("Order", { number: 1 }),
  },
  {
    title: "a field that a condition reads is deleted",
    workflow: "order_dear",
    send: ({ api }) => api.send("PUT /schemas/Order", { body: { fields: { total: { __op: "Delete" } } } }),
    look: look("Order", { number: 2 }),
  },
  {
    title: "a start whose classes lack a field",
    workflow: "item_stocked",
    send: (stage) => migrate(stage, shape),
    look: look("Item", { size: "small" }),
  },
  {
    title: "a class is deleted",
    workflow: "coupon_any",
    async send({ api }) {
      await api.send("DELETE /purge/Coupon");
      await api.send("DELETE /schemas/Coupon");
    },
    look: async (api) => {
      await api.send("GET /schemas/Coupon");
    },
  },
];
