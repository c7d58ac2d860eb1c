import type { Chapter } from "../harness/application.ts";

const field = (name: string, type: string, schema: object = {}, meta: object = {}) => ({
  field: name,
  type,
  schema,
  meta: { interface: "input", ...meta },
});
const uuid = field("id", "uuid", { is_primary_key: true }, { special: ["uuid"] });
const serial = field("id", "integer", { is_primary_key: true, has_auto_increment: true });

/** The collections, related in each way there is, and what is published on their tables. */
export const collections: Chapter = {
  title: "collections",
  async drive({ api }) {
    const collection = (name: string, fields: object[], meta: object = {}) =>
      api.send("POST /collections", { body: { collection: name, fields, schema: {}, meta } });
    await collection("authors", [
      serial,
      field("name", "string", { is_nullable: false }),
      field("born", "date"),
      field("email", "string", { is_unique: true }),
    ]);
    await collection(
      "articles",
      [
        uuid,
        field("title", "string", { is_nullable: false, max_length: 120 }),
        field("status", "string", { default_value: "draft" }),
        field("body", "text"),
        field("price", "decimal", { numeric_precision: 12, numeric_scale: 4 }),
        field("views", "bigInteger", { default_value: 0 }),
        field("rating", "float"),
        field("featured", "boolean", { default_value: false }),
        field("starts", "timestamp"),
        field("local_time", "dateTime"),
        field("day", "date"),
        field("hour", "time"),
        field("meta", "json", {}, { special: ["cast-json"] }),
        field("labels", "csv", {}, { special: ["cast-csv"] }),
        field("secret", "hash", {}, { special: ["hash"] }),
        field("author", "integer"),
        field("cover", "uuid", {}, { special: ["file"] }),
        field("sort", "integer"),
        field("legacy", "string"),
        field("date_created", "timestamp", {}, { special: ["date-created"] }),
        field("date_updated", "timestamp", {}, { special: ["date-updated"] }),
        field("user_updated", "uuid", {}, { special: ["user-updated"] }),
      ],
      { versioning: true, sort_field: "sort", archive_field: "status", archive_value: "archived" },
    );
    await collection("sections", [
      serial,
      field("heading", "string"),
      field("article", "uuid"),
      field("position", "integer"),
    ]);
    await collection("tags", [
      { ...field("slug", "string", { is_primary_key: true, max_length: 40 }) },
      field("uses", "integer", { default_value: 0 }),
    ]);
    await collection(
      "articles_tags",
      [serial, field("articles_id", "uuid"), field("tags_slug", "string", { max_length: 40 })],
      { hidden: true },
    );
    await collection(
      "site",
      [serial, field("headline", "string"), field("options", "json", {}, { special: ["cast-json"] })],
      { singleton: true },
    );

    await api.send("POST /fields/articles", {
      body: { field: "sections", type: "alias", meta: { special: ["o2m"], interface: "list-o2m" } },
    });
    await api.send("POST /fields/articles", {
      body: { field: "tags", type: "alias", meta: { special: ["m2m"], interface: "list-m2m" } },
    });
    const relation = (body: object) => api.send("POST /relations", { body });
    await relation({
      collection: "articles",
      field: "author",
      related_collection: "authors",
      schema: { on_delete: "SET NULL" },
    });
    await relation({
      collection: "articles",
      field: "cover",
      related_collection: "directus_files",
      schema: { on_delete: "SET NULL" },
    });
    await relation({
      collection: "sections",
      field: "article",
      related_collection: "articles",
      meta: { one_field: "sections", one_deselect_action: "delete", sort_field: "position" },
      schema: { on_delete: "CASCADE" },
    });
    await relation({
      collection: "articles_tags",
      field: "articles_id",
      related_collection: "articles",
      meta: { one_field: "tags", junction_field: "tags_slug" },
      schema: { on_delete: "CASCADE" },
    });
    await relation({
      collection: "articles_tags",
      field: "tags_slug",
      related_collection: "tags",
      meta: { junction_field: "articles_id" },
      schema: { on_delete: "CASCADE" },
    });
    await api.send("GET /fields/articles");
    await api.send("GET /relations/articles");
  },
  publish: [
    {
      name: "article_written",
      table: "public.articles",
      operations: ["insert"],
      columns: ["id", "title", "status", "price", "views"],
    },
    {
      name: "article_published",
      table: "public.articles",
      operations: ["update"],
      columns: ["id", "title", "starts"],
      watch: ["status"],
      condition: "new.status = 'published' and old.status is distinct from new.status",
      expected: "n ->> 'status' = 'published'",
    },
    {
      name: "article_priced",
      table: "public.articles",
      operations: ["update"],
      columns: ["id", "price", "views", "rating"],
      watch: ["price", "views"],
    },
    // json has no operator = at all.
    {
      name: "article_described",
      table: "public.articles",
      operations: ["update"],
      columns: ["id", "meta", "labels"],
      watch: ["meta", "labels"],
    },
    {
      name: "article_big",
      table: "public.articles",
      operations: ["insert", "update"],
      columns: ["id", "day"],
      condition: "length(new.body) > 20",
      expected: "length(n ->> 'body') > 20",
    },
    {
      name: "article_timed",
      table: "public.articles",
      operations: ["insert", "update"],
      columns: ["id", "starts", "local_time", "day", "hour", "date_created"],
    },
    {
      name: "article_gone",
      table: "public.articles",
      operations: ["delete"],
      columns: ["id", "title", "author", "secret"],
    },
    { name: "article_any", table: "public.articles", operations: ["insert", "update", "delete"], columns: null },
    {
      name: "section_any",
      table: "public.sections",
      operations: ["insert", "update", "delete"],
      columns: ["id", "heading", "article"],
    },
    {
      name: "section_moved",
      table: "public.sections",
      operations: ["update"],
      columns: ["id", "position"],
      watch: ["position"],
    },
    {
      name: "tag_linked",
      table: "public.articles_tags",
      operations: ["insert", "delete"],
      columns: ["id", "articles_id", "tags_slug"],
    },
    { name: "tag_any", table: "public.tags", operations: ["insert", "update", "delete"], columns: null, key: ["slug"] },
    {
      name: "author_any",
      table: "public.authors",
      operations: ["insert", "update", "delete"],
      columns: ["id", "name", "born"],
    },
    {
      name: "site_changed",
      table: "public.site",
      operations: ["insert", "update"],
      columns: ["id", "headline", "options"],
    },
    {
      name: "file_any",
      table: "public.directus_files",
      operations: ["insert", "update", "delete"],
      columns: ["id", "title", "type", "filesize", "folder", "uploaded_on", "metadata"],
    },
    {
      name: "user_changed",
      table: "public.directus_users",
      operations: ["insert", "update"],
      columns: ["id", "email", "status", "role"],
      watch: ["email", "status", "role"],
    },
    { name: "user_any", table: "public.directus_users", operations: ["insert", "update", "delete"], columns: null },
    {
      name: "revision_written",
      table: "public.directus_revisions",
      operations: ["insert"],
      columns: ["id", "collection", "item", "data", "delta"],
    },
    {
      name: "permission_any",
      table: "public.directus_permissions",
      operations: ["insert", "update", "delete"],
      columns: null,
    },
    { name: "field_any", table: "public.directus_fields", operations: ["insert", "update", "delete"], columns: null },
    {
      name: "settings_any",
      table: "public.directus_settings",
      operations: ["insert", "update"],
      columns: null,
    },
  ],
};
