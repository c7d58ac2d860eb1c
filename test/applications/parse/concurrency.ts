import type { Chapter } from "../harness/application.ts";

/** Many clients at the same time, on many rows and on one. */
export const concurrency: Chapter = {
  title: "many at the same time",
  async drive({ api }) {
    const made = await api.together(
      Array.from({ length: 200 }, (_, n) => [
        "POST /classes/Order",
        { body: { number: 1000 + n, status: "open", total: n } },
      ]),
    );
    const [hot] = made;
    await api.together(
      Array.from({ length: 150 }, () => [
        `PUT /classes/Order/${hot.objectId}`,
        { body: { total: { __op: "Increment", amount: 1 }, tags: { __op: "AddUnique", objects: ["hot"] } } },
      ]),
    );
    await api.send(`GET /classes/Order/${hot.objectId}`);
    await api.together(
      made.slice(1, 101).flatMap(({ objectId }) => [
        [`PUT /classes/Order/${objectId}`, { body: { status: "paid" } }],
        [`PUT /classes/Order/${objectId}`, { body: { "address.city": "Bern" } }],
      ]),
    );
    await api.together(made.slice(101, 160).map(({ objectId }) => [`DELETE /classes/Order/${objectId}`]));
    const batches = Array.from({ length: 8 }, (_, n) => ({
      transaction: n % 2 === 0,
      requests: Array.from({ length: 25 }, (_, m) => ({
        method: "POST",
        path: "/parse/classes/Order",
        body: { number: 2000 + n * 100 + m, status: "open", total: 200 },
      })),
    }));
    await api.together(batches.map((body) => ["POST /batch", { body }]));
    await api.send("GET /classes/Order?order=number&limit=2000&keys=number,status,total");
  },
};
