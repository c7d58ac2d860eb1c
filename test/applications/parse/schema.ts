import type { Chapter } from "../harness/application.ts";
import { configure } from "./index.ts";

const key = ["objectId"];
const order = 'public."Order"';

/** The classes, made in the two ways there are, and what is published on their tables. */
export const shop: Chapter = {
  title: "classes",
  async drive({ api }) {
    await api.send("POST /schemas/Customer", {
      body: { className: "Customer", fields: { name: { type: "String" }, vip: { type: "Boolean" } } },
    });
    await api.send("POST /schemas/Order", {
      body: {
        className: "Order",
        fields: {
          number: { type: "Number" },
          status: { type: "String", required: true },
          total: { type: "Number", defaultValue: 0 },
          tags: { type: "Array" },
          place: { type: "GeoPoint" },
          area: { type: "Polygon" },
          address: { type: "Object" },
          paidAt: { type: "Date" },
          raw: { type: "Bytes" },
          receipt: { type: "File" },
          note: { type: "String" },
          customer: { type: "Pointer", targetClass: "Customer" },
          items: { type: "Relation", targetClass: "Item" },
        },
      },
    });
    await api.send("POST /classes/Item", { body: { name: "chair", stock: 10 } }); // makes the class
    await api.send("POST /classes/Coupon", { body: { code: "SPRING", percent: 10 } });
    await api.send("POST /users", { body: { username: "first", password: "p" } });
    await api.send("GET /login?username=first&password=p"); // makes _Session
    await api.send("POST /roles", { body: { name: "staff", ACL: { "*": { read: true } } } });
  },
  publish: [
    {
      name: "order_placed",
      table: order,
      operations: ["insert"],
      columns: ["objectId", "number", "status", "customer"],
      key,
    },
    {
      name: "order_paid",
      table: order,
      operations: ["update"],
      columns: ["objectId", "number", "status", "paidAt"],
      watch: ["status"],
      condition: "new.status = 'paid'",
      expected: "n ->> 'status' = 'paid'",
      key,
    },
    // A point, which has no operator = that an index could use.
    {
      name: "order_moved",
      table: order,
      operations: ["update"],
      columns: ["objectId", "place", "area"],
      watch: ["place", "area"],
      key,
    },
    {
      name: "order_readdressed",
      table: order,
      operations: ["update"],
      columns: ["objectId", "address", "tags"],
      watch: ["address", "tags"],
      key,
    },
    {
      name: "order_dear",
      table: order,
      operations: ["insert", "update"],
      columns: ["objectId", "number", "updatedAt"],
      condition: "new.total > 100",
      expected: "(n ->> 'total')::float8 > 100",
      key,
    },
    {
      name: "order_gone",
      table: order,
      operations: ["delete"],
      columns: ["objectId", "number", "_rperm"],
      condition: "old.status is distinct from 'draft'",
      expected: "o ->> 'status' is distinct from 'draft'",
      key,
    },
    { name: "order_any", table: order, operations: ["insert", "update", "delete"], columns: null, key },
    {
      name: "item_stocked",
      table: 'public."Item"',
      operations: ["update"],
      columns: ["objectId", "stock"],
      watch: ["stock"],
      key,
    },
    {
      name: "coupon_any",
      table: 'public."Coupon"',
      operations: ["insert", "update", "delete"],
      columns: ["objectId", "code"],
      key,
    },
    {
      name: "item_linked",
      table: 'public."_Join:items:Order"',
      operations: ["insert", "delete"],
      columns: ["relatedId", "owningId"],
      key: ["relatedId", "owningId"],
    },
    {
      name: "member_joined",
      table: 'public."_Join:users:_Role"',
      operations: ["insert", "delete"],
      columns: null,
      key: ["relatedId", "owningId"],
    },
    {
      name: "user_any",
      table: 'public."_User"',
      operations: ["insert", "update", "delete"],
      columns: ["objectId", "username", "email"],
      key,
    },
    {
      name: "user_moved",
      table: 'public."_User"',
      operations: ["update"],
      columns: ["objectId", "email"],
      watch: ["email"],
      key,
    },
    { name: "session_any", table: 'public."_Session"', operations: ["insert", "update", "delete"], columns: null, key },
    {
      name: "class_changed",
      table: 'public."_SCHEMA"',
      operations: ["insert", "update", "delete"],
      columns: null,
      key: ["className"],
    },
  ],
};

/** Changes of the schema while it runs that break nothing. */
export const schema: Chapter = {
  title: "new classes and fields",
  async drive({ api }) {
    // Fields and classes that are new when something is saved, some at the same time.
    await api.send("POST /classes/Order", { body: { number: 500, status: "draft", channel: "web" } });
    await api.send("POST /classes/Review", { body: { stars: 5, text: "good" } });
    await api.together(
      Array.from({ length: 30 }, (_, n) => [
        "POST /classes/Order",
        { body: { number: 600 + n, status: n % 2 ? "open" : "paid", total: n * 10, [`extra${n % 5}`]: `x${n % 5}` } },
      ]),
    );
    await api.together(Array.from({ length: 10 }, (_, n) => ["POST /classes/Visit", { body: { page: `/${n}` } }]));
    await api.send("PUT /schemas/Order", {
      body: { fields: { weight: { type: "Number" }, helpers: { type: "Relation", targetClass: "_User" } } },
    });
    await api.send("PUT /schemas/Order", { body: { indexes: { byNumber: { number: 1 } } } });
    await api.send("POST /classes/Order", { body: { number: 700, status: "open", weight: 1.5, total: 150 } });
    // Fields that no workflow names, of a table that workflows are published on.
    await api.send("PUT /schemas/Order", { body: { fields: { channel: { __op: "Delete" } } } });
    await api.send("PUT /schemas/Order", {
      body: { fields: { weight: { __op: "Delete" }, helpers: { __op: "Delete" } } },
    });
    await api.send("POST /classes/Order", { body: { number: 701, status: "paid", total: 1 } });
    await api.send("PUT /schemas/Order", { body: { indexes: { byNumber: { __op: "Delete" } } } });
    await api.send("PUT /schemas/Order", {
      body: { classLevelPermissions: { find: { "*": true }, get: { "*": true } } },
    });
    // A class that nobody listens to.
    await api.send("PUT /schemas/Review", { body: { fields: { text: { __op: "Delete" } } } });
    await api.send("DELETE /schemas/Review");
    await api.send("DELETE /purge/Review");
    await api.send("DELETE /schemas/Review");
    await api.send("PUT /schemas/Nothing", { body: { fields: { a: { type: "String" } } } });
    await api.send("PUT /schemas/Order", { body: { fields: { number: { type: "String" } } } });
    await api.send("GET /schemas/Order");
  },
};

/** What its own migrations do when it starts. */
export const restarts: Chapter = {
  title: "schema migrations at the start",
  async drive({ api, place, restart }) {
    const item = { name: { type: "String" }, stock: { type: "Number" } };
    const migrate = (definitions: object[], options: object = {}) =>
      restart(async () =>
        configure(place, {
          schema: {
            definitions,
            lockSchemas: false,
            strict: false,
            recreateModifiedFields: false,
            deleteExtraFields: false,
            ...options,
          },
        }),
      );
    await migrate([
      {
        className: "Item",
        fields: { ...item, size: { type: "Number", defaultValue: 1 }, colour: { type: "String" } },
        indexes: { byName: { name: 1 } },
      },
      {
        className: "Invoice",
        fields: { number: { type: "Number" }, order: { type: "Pointer", targetClass: "Order" } },
      },
    ]);
    await api.send("GET /schemas/Item");
    await api.send("GET /schemas/Invoice");
    await api.send("POST /classes/Item", { body: { name: "shelf", stock: 3, size: 7 } });
    await api.send("POST /classes/Invoice", { body: { number: 1 } });

    // Now colour goes, and size becomes a text: the column is dropped and made again.
    await migrate([{ className: "Item", fields: { ...item, size: { type: "String" } }, indexes: {} }], {
      recreateModifiedFields: true,
      deleteExtraFields: true,
    });
    await api.send("GET /schemas/Item");
    const { objectId } = await api.send("POST /classes/Item", { body: { name: "lamp", stock: 3, size: "large" } });
    await api.send(`PUT /classes/Item/${objectId}`, { body: { stock: 2 } });
    await api.send("GET /classes/Item?order=name");
  },
};
