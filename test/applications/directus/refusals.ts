import type { Api, Body } from "../harness/api.ts";
import type { Refusal, Stage } from "../harness/application.ts";
import { migrate } from "./index.ts";

/** The fields that it knows, and a write. */
const look = (collection: string, body: object) => async (api: Api) => {
  await api.send(`GET /fields/${collection}`);
  const [first] = (
    await api.send(`GET /items/${collection}?limit=1&fields=id&sort=${collection === "articles" ? "title" : "id"}`)
  ).data;
  await api.send(`PATCH /items/${collection}/${first.id}`, { body });
};

export const refusals: Refusal[] = [
  {
    title: "a field that a condition reads is deleted",
    workflow: "article_big",
    send: ({ api }) => api.send("DELETE /fields/articles/body"),
    look: look("articles", { sort: 1 }),
  },
  {
    title: "a field that is watched is deleted",
    workflow: "article_described",
    send: ({ api }) => api.send("DELETE /fields/articles/labels"),
    look: look("articles", { sort: 2 }),
  },
  {
    title: "the type of a field is changed",
    workflow: "section_moved",
    send: ({ api }) =>
      api.send("PATCH /fields/sections/position", {
        body: { type: "string", schema: { data_type: "character varying" } },
      }),
    look: look("sections", { heading: "seen" }),
  },
  {
    title: "a schema without a field is applied",
    workflow: "author_any",
    async send({ api }) {
      const start = api.answers.length;
      const wanted = (await api.send("GET /schema/snapshot")).data;
      wanted.fields = wanted.fields.filter((it: Body) => it.collection !== "authors" || it.field !== "born");
      const diff = (await api.send("POST /schema/diff", { body: wanted })).data;
      api.answers.splice(start);
      await api.send("POST /schema/apply", { body: diff });
    },
    look: look("authors", { name: "seen" }),
  },
  {
    title: "a collection is deleted",
    workflow: "tag_linked",
    send: ({ api }) => api.send("DELETE /collections/articles_tags"),
    look: async (api) => {
      await api.send("GET /collections/articles_tags");
      await api.send("GET /items/articles?limit=1&sort=title&fields=title,tags");
    },
  },
  {
    title: "one of its migrations drops a column",
    workflow: "settings_changed",
    send: migrateDown,
    look: async (api) => {
      await api.send("PATCH /settings", { body: { project_name: "seen" } });
    },
  },
];

/** Undoes migrations until the column is gone. */
async function migrateDown({ api, place, restart }: Stage) {
  const answer = { request: "migrate:down", status: 200, body: "", normalised: "" };
  await restart(async () => {
    try {
      await migrate(place, "down", "down", "down");
    } catch (error) {
      const lines = String(error).split("\n");
      answer.status = 500;
      answer.normalised = lines.find((line) => line.includes("workflow")) ?? String(error);
    }
    await migrate(place, "latest");
  });
  api.answers.push(answer);
}
