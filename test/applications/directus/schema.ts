import type { Body } from "../harness/api.ts";
import type { Chapter } from "../harness/application.ts";
import { migrate } from "./index.ts";

/** Changes of the schema that break nothing. */
export const growth: Chapter = {
  title: "the schema grows",
  async drive({ api }) {
    const patch = (path: string, body: unknown) => api.send(`PATCH ${path}`, { body });
    await api.send("POST /collections", {
      body: {
        collection: "events",
        schema: {},
        meta: {},
        fields: [
          { field: "id", type: "integer", schema: { is_primary_key: true, has_auto_increment: true }, meta: {} },
          { field: "name", type: "string", schema: { max_length: 50 }, meta: {} },
          { field: "at", type: "timestamp", schema: {}, meta: {} },
        ],
      },
    });
    await api.send("POST /items/events", { body: [{ name: "fair" }, { name: "feast", at: "2026-05-01T00:00:00Z" }] });
    await patch("/fields/events/name", { type: "text", schema: { is_nullable: true } });
    await patch("/fields/events/name", { schema: { default_value: "event", is_nullable: false } });
    await api.send("DELETE /fields/events/at");
    await api.send("DELETE /collections/events");

    // On a table that workflows are published on: what they do not name, or what stays as it is.
    await api.send("POST /fields/articles", {
      body: { field: "subtitle", type: "string", schema: { default_value: "none", is_nullable: false }, meta: {} },
    });
    await api.send("POST /fields/articles", { body: { field: "reviewer", type: "integer", schema: {}, meta: {} } });
    await api.send("POST /relations", {
      body: {
        collection: "articles",
        field: "reviewer",
        related_collection: "authors",
        schema: { on_delete: "SET NULL" },
      },
    });
    await patch("/fields/articles/subtitle", { schema: { is_indexed: true } });
    await patch("/fields/articles/subtitle", { schema: { max_length: 500 } });
    await patch("/fields/articles/title", { meta: { note: "at most 120 characters", required: true } });
    await patch("/fields/articles/status", { schema: { default_value: "new" } });
    await patch("/fields/articles/price", { schema: { is_indexed: true } });
    await patch("/fields/articles", [
      { field: "title", meta: { sort: 2 } },
      { field: "body", meta: { sort: 1 } },
    ]);
    await patch("/collections/articles", { meta: { note: "what we print", icon: "article" } });
    await patch("/relations/sections/article", {
      collection: "sections",
      field: "article",
      related_collection: "articles",
      schema: { on_delete: "SET NULL" },
    });
    const article = (
      await api.send("POST /items/articles", {
        body: { title: "After", subtitle: "a subtitle", reviewer: 2, sections: [{ heading: "S" }] },
      })
    ).data;
    await patch(`/items/articles/${article.id}`, { status: "published", price: 9 });
    await api.send("DELETE /fields/articles/legacy");
    await patch(`/items/articles/${article.id}`, { price: 10 });
    await api.send("DELETE /relations/articles/reviewer");
    await api.send("DELETE /fields/articles/reviewer");
    await patch(`/items/articles/${article.id}`, { views: 77 });
    await api.send(`DELETE /items/articles/${article.id}`); // its section stays, without it
    await api.send("GET /items/sections?sort=id");

    // The schema as a file, changed and applied.
    const snapshot = (await api.send("GET /schema/snapshot")).data;
    const wanted = structuredClone(snapshot);
    const subtitle = wanted.fields.find((it: Body) => it.collection === "articles" && it.field === "subtitle");
    wanted.fields = wanted.fields.filter((it: Body) => it !== subtitle);
    wanted.fields.push({
      ...subtitle,
      collection: "authors",
      field: "motto",
      schema: { ...subtitle.schema, name: "motto", table: "authors", is_indexed: false },
    });
    const diff = (await api.send("POST /schema/diff", { body: wanted })).data;
    await api.send("POST /schema/apply", { body: diff });
    await api.send("POST /items/authors", { body: { name: "Mo", motto: "on" } });
    await api.send("GET /fields/articles");
    await api.send("GET /fields/authors");
  },
};

/** The latest of its own migrations, undone and done again, while it is stopped. */
export const migrations: Chapter = {
  title: "three of its migrations undone and done again",
  async drive({ api, place, restart }) {
    await api.send("PATCH /settings", { body: { project_name: "Gazette, before" } });
    await restart(() => migrate(place, "down", "down", "down", "latest"));
    await api.send("PATCH /settings", { body: { project_name: "Gazette, after" } });
    await api.send("POST /items/articles", {
      body: { title: "Migrated", status: "published", body: "more than twenty characters, surely" },
    });
    await api.send("GET /items/articles?limit=-1&sort=title&fields=title,status");
  },
  publish: [
    {
      name: "settings_changed",
      table: "public.directus_settings",
      operations: ["update"],
      columns: ["id", "project_name", "collaborative_editing_enabled"],
    },
  ],
};
