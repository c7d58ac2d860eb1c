import type { Chapter } from "../harness/application.ts";

/** What editors do, one request after the other. */
export const editing: Chapter = {
  title: "a day of editing",
  async drive({ api }) {
    const post = (path: string, body: unknown) => api.send(`POST ${path}`, { body });
    const patch = (path: string, body: unknown) => api.send(`PATCH ${path}`, { body });
    const remove = (path: string, body?: unknown) => api.send(`DELETE ${path}`, body === undefined ? {} : { body });

    await post("/items/authors", [{ name: "Ada", born: "1815-12-10", email: "ada@example.com" }, { name: "Eve" }]);
    await post("/items/tags", [{ slug: "news" }, { slug: "sport" }, { slug: "élite ☃" }]);
    const first = (
      await post("/items/articles", {
        title: 'One "quoted" \\ title',
        body: "A body of more than twenty characters",
        price: "12345678.1234",
        views: 9007199254740000,
        rating: 0.1,
        starts: "2026-03-29T01:30:00.123Z",
        local_time: "2026-03-29T02:30:00",
        day: "2026-02-28",
        hour: "23:59:59",
        meta: { deep: [1, null, { a: "ü" }], text: "\u2028" },
        labels: ["a", "b"],
        secret: "hash me",
        author: 1,
        tags: [{ tags_slug: "news" }, { tags_slug: { slug: "new-one" } }],
        sections: [
          { heading: "Intro", position: 1 },
          { heading: "Outro", position: 2 },
        ],
      })
    ).data;
    const second = (await post("/items/articles", { title: "Two", author: { name: "Joe", born: "1900-01-01" } })).data;
    const many = (
      await post(
        "/items/articles",
        Array.from({ length: 30 }, (_, n) => ({ title: `Article ${n}`, price: n / 4, views: n, sort: n })),
      )
    ).data;
    const ids: string[] = many.map(({ id }: { id: string }) => id);

    await patch(`/items/articles/${first.id}`, { status: "published" });
    await patch(`/items/articles/${first.id}`, { status: "published" });
    await patch(`/items/articles/${first.id}`, {
      title: "One, changed",
      price: "12345678.12340",
      meta: { deep: [1, null, { a: "ü" }], text: "\u2028" },
    });
    await patch(`/items/articles/${first.id}`, { meta: { other: true }, views: "9007199254740991", labels: [] });
    await patch(`/items/articles/${first.id}`, { meta: null, labels: null, rating: null });
    await patch(`/items/articles/${first.id}`, { body: "long ".repeat(40_000) });
    const [intro] = first.sections;
    await patch(`/items/articles/${first.id}`, {
      sections: {
        create: [{ heading: "Middle", position: 3 }],
        update: [{ id: intro, heading: "Introduction" }],
        delete: [],
      },
      tags: { create: [{ tags_slug: "sport" }], update: [], delete: [first.tags[0]] },
    });
    await patch(`/items/sections/${intro}`, { position: 7 });
    await patch(`/items/sections/${intro}`, { position: 7, heading: "Moved" });
    await patch(`/items/articles/${first.id}`, { sections: [intro] }); // the others are deleted
    await patch(`/items/articles/${second.id}`, { author: { id: second.author, name: "Joseph" } });
    await patch("/items/articles", { keys: ids.slice(0, 10), data: { status: "published", price: 5 } });
    await patch("/items/articles", { query: { filter: { views: { _gte: 20 } } }, data: { featured: true } });
    await patch(
      "/items/articles",
      ids.slice(10, 15).map((id, n) => ({ id, views: 1000 + n })),
    );
    await post("/utils/sort/articles", { item: ids[3], to: ids[8] });
    await post("/utils/sort/sections", { item: intro, to: intro });
    await api.send("PATCH /items/site", { body: { headline: "Hello", options: { dark: true } } });
    await api.send("PATCH /items/site", { body: { headline: "Hello again" } });

    // What is refused, in part after something was written.
    await post("/items/articles", { body: "no title" });
    await post("/items/articles", [{ title: "good" }, { title: "x".repeat(500) }]);
    await post("/items/authors", [{ name: "Zoe" }, { name: "Zed", email: "ada@example.com" }]);
    await post("/items/articles", { title: "wrong author", author: 999 });
    await post("/items/articles", {
      title: "good, with bad sections",
      sections: [{ heading: "ok" }, { position: "no number" }],
    });
    await patch("/items/articles/no-uuid", { title: "x" });
    await post("/items/nothing", {});
    await api.send("POST /items/articles", { body: "{broken", headers: { "content-type": "application/json" } });

    // Versions, import, GraphQL.
    const version = (await post("/versions", { name: "next", key: "next", collection: "articles", item: second.id }))
      .data;
    await post(`/versions/${version.id}/save`, {
      title: "Two, next",
      status: "published",
      tags: [{ tags_slug: "news" }],
    });
    await post(`/versions/${version.id}/save`, { title: "Two, after next" });
    const compared = (await api.send(`GET /versions/${version.id}/compare`)).data;
    await post(`/versions/${version.id}/promote`, { mainHash: compared.mainHash });
    await remove(`/versions/${version.id}`);
    const form = new FormData();
    form.append(
      "file",
      new Blob(["name,born\nGrace,1906-12-09\nAlan,1912-06-23\n"], { type: "text/csv" }),
      "authors.csv",
    );
    await api.send("POST /utils/import/authors", { body: form });
    await post("/graphql", {
      query: 'mutation { create_articles_item(data: { title: "From GraphQL", views: "12" }) { title status } }',
    });
    await post("/graphql", {
      query: 'mutation { update_authors_items(ids: [1, 2], data: { born: "2000-01-01" }) { name born } }',
    });
    await api.send("SEARCH /items/articles", {
      body: {
        query: {
          filter: { status: { _eq: "published" } },
          sort: ["title"],
          fields: ["title", "author.name", "tags.tags_slug"],
        },
      },
    });

    // Deletes, which take others along.
    await remove(`/items/articles/${first.id}`);
    await remove("/items/articles", ids.slice(20, 25));
    await remove("/items/articles", { query: { filter: { title: { _contains: "Article 1" } } } });
    await remove("/items/tags/news");
    await remove("/items/authors/1");
    await remove("/items/authors/999");
    await api.send("GET /items/articles?sort=title&limit=-1&fields=*,sections.*,tags.*");
    await api.send("GET /items/authors?sort=id&aggregate[count]=*");
  },
};

/** Files, users and their rights. */
export const accounts: Chapter = {
  title: "files and users",
  async drive({ api }) {
    const form = (text: string, title: string) => {
      const data = new FormData();
      data.append("title", title);
      data.append("file", new Blob([text], { type: "text/plain" }), `${title}.txt`);
      return data;
    };
    const file = (await api.send("POST /files", { body: form("hello", "greeting") })).data;
    const folder = (await api.send("POST /folders", { body: { name: "letters" } })).data;
    await api.send(`PATCH /files/${file.id}`, { body: { title: "Greeting", folder: folder.id, tags: ["a"] } });
    await api.send(`PATCH /files/${file.id}`, { body: form("hello, you", "again") });
    await api.send("POST /items/articles", { body: { title: "With a cover", cover: file.id } });
    const other = (await api.send("POST /files", { body: form("bye", "farewell") })).data;
    await api.send(`GET /assets/${other.id}`);
    await api.send(`DELETE /files/${other.id}`);
    await api.send(`DELETE /files/${file.id}`); // the article loses its cover
    await api.send(`DELETE /folders/${folder.id}`);

    const role = (await api.send("POST /roles", { body: { name: "Editor" } })).data;
    const policy = (
      await api.send("POST /policies", {
        body: {
          name: "Edit",
          app_access: true,
          roles: [{ role: role.id }],
          permissions: [
            { collection: "articles", action: "read", fields: ["*"], permissions: {} },
            {
              collection: "articles",
              action: "create",
              fields: ["title", "status"],
              permissions: {},
              validation: { status: { _neq: "published" } },
            },
            { collection: "articles", action: "update", fields: ["title"], permissions: { status: { _eq: "draft" } } },
          ],
        },
      })
    ).data;
    const user = (
      await api.send("POST /users", {
        body: { email: "editor@example.com", password: "write-write", role: role.id, first_name: "Ed" },
      })
    ).data;
    await api.send("POST /users", { body: [{ email: "a@example.com" }, { email: "editor@example.com" }] });
    const { data } = await api.send("POST /auth/login", {
      body: { email: "editor@example.com", password: "write-write" },
    });
    const headers = { authorization: `Bearer ${data.access_token}` };
    await api.send("POST /auth/login", { body: { email: "editor@example.com", password: "wrong" } });
    await api.send("GET /users/me?fields=email,role.name", { headers });
    await api.send("POST /items/articles", { body: { title: "By Ed" }, headers });
    await api.send("POST /items/articles", { body: { title: "By Ed", status: "published" }, headers });
    await api.send("POST /items/articles", { body: { title: "By Ed", price: 5 }, headers });
    await api.send("POST /items/authors", { body: { name: "By Ed" }, headers });
    await api.send("GET /items/articles?sort=title&fields=title", { headers });
    await api.send("PATCH /users/me", { body: { first_name: "Edward" }, headers });
    await api.send(`PATCH /users/${user.id}`, { body: { email: "ed@example.com" } });
    await api.send(`PATCH /users/${user.id}`, { body: { status: "suspended" } });
    await api.send("POST /auth/login", { body: { email: "ed@example.com", password: "write-write" } });
    await api.send(`PATCH /policies/${policy.id}`, { body: { permissions: [] } });
    await api.send(`DELETE /users/${user.id}`);
    await api.send(`DELETE /policies/${policy.id}`);
    await api.send(`DELETE /roles/${role.id}`);
    await api.send("PATCH /settings", { body: { project_name: "Gazette" } });
    await api.send("POST /comments", { body: { collection: "authors", item: "2", comment: "who is that?" } });
    await api.send("POST /presets", { body: { collection: "articles", bookmark: "mine" } });
  },
};
