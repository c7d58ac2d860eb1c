import { createHash } from "node:crypto";
import type { Chapter } from "../harness/application.ts";

/** The same for every run. */
const id = (n: number) =>
  createHash("md5")
    .update(`article ${n}`)
    .digest("hex")
    .replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-4000-8000-$5");

/** Many editors at the same time, on many items and on one. */
export const concurrency: Chapter = {
  title: "many at the same time",
  async drive({ api }) {
    await api.together(
      Array.from({ length: 120 }, (_, n) => [
        "POST /items/articles?fields=id,title,views",
        { body: { id: id(n), title: `C ${n}`, views: n } },
      ]),
    );
    await api.together(
      Array.from({ length: 80 }, (_, n) => [
        `PATCH /items/articles/${id(0)}?fields=id`,
        { body: { views: n, status: n % 2 ? "published" : "draft" } },
      ]),
    );
    await api.send(`PATCH /items/articles/${id(0)}?fields=id`, { body: { views: 0, status: "draft" } }); // which was the last?
    await api.together(
      Array.from({ length: 60 }, (_, n): [string, { body: unknown }][] => [
        [`PATCH /items/articles/${id(n + 1)}?fields=id`, { body: { price: n, meta: { n } } }],
        [
          `PATCH /items/articles/${id(n + 1)}?fields=id`,
          { body: { status: "published", tags: { create: [{ tags_slug: "sport" }], update: [], delete: [] } } },
        ],
      ]).flat(),
    );
    await api.together(
      Array.from({ length: 10 }, (_, n) => [
        "PATCH /items/articles?fields=id",
        {
          body: {
            keys: Array.from({ length: 20 }, (_, m) => id(n * 10 + m)).filter((_, m) => n * 10 + m < 120),
            data: { featured: n % 2 === 0 },
          },
        },
      ]),
      3,
    );
    await api.together(Array.from({ length: 40 }, (_, n) => [`DELETE /items/articles/${id(n + 70)}`]));
    await api.send(
      "GET /items/articles?limit=-1&sort=title&filter[title][_starts_with]=C%20&fields=title,status,price,meta,tags.tags_slug",
    );
  },
};
