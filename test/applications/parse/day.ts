import type { Chapter } from "../harness/application.ts";

/** What a client of a shop does, one request after the other. */
export const day: Chapter = {
  title: "a day of orders",
  async drive({ api }) {
    const customer = (await api.send("POST /classes/Customer", { body: { name: "Ada", vip: true } })).objectId;
    const pointer = { __type: "Pointer", className: "Customer", objectId: customer };
    const items: string[] = [];
    for (const name of ["table", "chair", "bed", "lamp"]) {
      items.push((await api.send("POST /classes/Item", { body: { name, stock: 5 } })).objectId);
    }
    const itemPointers = items.map((objectId) => ({ __type: "Pointer", className: "Item", objectId }));

    const orders: string[] = [];
    for (let number = 1; number <= 20; number++) {
      const { objectId } = await api.send("POST /classes/Order", {
        body: {
          number,
          status: number % 3 ? "open" : "draft",
          total: number * 12.5,
          tags: ["new", number],
          place: { __type: "GeoPoint", latitude: number, longitude: -number },
          address: { street: `${number} "Elm" \\ Street`, city: "Zürich ☃", floors: [1, null, { a: true }] },
          customer: pointer,
          raw: { __type: "Bytes", base64: "aGVsbG8=" },
          paidAt: { __type: "Date", iso: `2026-02-${String(number).padStart(2, "0")}T10:00:00.${number}Z` },
        },
      });
      orders.push(objectId);
    }
    const [first, second, third, fourth] = orders;
    const change = (id: string | undefined, body: object) => api.send(`PUT /classes/Order/${id}`, { body });
    await change(first, { status: "paid", paidAt: { __type: "Date", iso: "2026-03-29T01:30:00.123Z" } });
    await change(first, { status: "paid" });
    await change(first, { status: "paid", total: { __op: "Increment", amount: 1000 } });
    await change(first, { status: "shipped", total: 99.99 });
    await change(second, { place: { __type: "GeoPoint", latitude: 2, longitude: -2 } }); // the same again
    await change(second, { place: { __type: "GeoPoint", latitude: 0.1, longitude: 179.999999 } });
    await change(second, {
      place: { __op: "Delete" },
      area: {
        __type: "Polygon",
        coordinates: [
          [0, 0],
          [0, 1],
          [1, 1],
          [1, 0],
        ],
      },
    });
    await change(third, { tags: { __op: "AddUnique", objects: ["new", "late"] } });
    await change(third, { tags: { __op: "Remove", objects: ["new"] } });
    await change(third, { "address.city": "Basel" });
    await change(third, { "address.street": { __op: "Delete" } });
    await change(third, { address: { __op: "Delete" }, total: 1e21 });
    await change(third, { note: "x".repeat(70_000) });
    await change(fourth, { items: { __op: "AddRelation", objects: itemPointers } });
    await change(fourth, { items: { __op: "RemoveRelation", objects: itemPointers.slice(0, 2) } });
    await change(fourth, { items: { __op: "AddRelation", objects: itemPointers } }); // two of them are there already
    await change(fourth, { status: null });
    await change(fourth, { status: { __op: "Delete" } });
    await change("nobody0000", { status: "paid" });
    await change(fourth, { number: "a text" });
    await api.send("POST /classes/Order", { body: { number: 99 } }); // without its status
    await api.send("GET /classes/Order?order=number&limit=50");
    await api.send(`GET /classes/Order/${first}?include=customer`);
    await api.send(
      `GET /classes/Item?where=${encodeURIComponent(JSON.stringify({ $relatedTo: { object: { __type: "Pointer", className: "Order", objectId: fourth }, key: "items" } }))}&order=name`,
    );
    await api.send(
      `GET /classes/Order?where=${encodeURIComponent(JSON.stringify({ total: { $gt: 100 }, status: "open" }))}&count=1&order=number`,
    );
    await api.send("GET /classes/Order?where={broken");

    const receipt = await api.send("POST /files/receipt.txt", {
      body: "paid, thank you",
      headers: { "content-type": "text/plain" },
    });
    await change(second, { receipt: { __type: "File", name: receipt.name } });

    const batch = (requests: object[], transaction = false) =>
      api.send("POST /batch", { body: { requests, transaction } });
    await batch(
      Array.from({ length: 40 }, (_, n) => ({
        method: "POST",
        path: "/parse/classes/Order",
        body: { number: 100 + n, status: "open", total: n * 5 },
      })),
    );
    await batch(
      orders
        .slice(4, 12)
        .map((id) => ({ method: "PUT", path: `/parse/classes/Order/${id}`, body: { status: "paid" } })),
      true,
    );
    await batch(
      [
        { method: "PUT", path: `/parse/classes/Order/${orders[12]}`, body: { status: "paid", total: 5000 } },
        { method: "POST", path: "/parse/classes/Order", body: { number: 300, status: "open", total: 3000 } },
        { method: "PUT", path: `/parse/classes/Order/${orders[13]}`, body: { number: "a text" } }, // takes the others along
      ],
      true,
    );
    await batch(orders.slice(14, 18).map((id) => ({ method: "DELETE", path: `/parse/classes/Order/${id}` })));
    await api.send(`DELETE /classes/Order/${fourth}`);
    await api.send(`DELETE /classes/Order/${fourth}`);
    await api.send(`DELETE /classes/Order/${orders[5]}`);
    await api.send("GET /classes/Order?order=number,createdAt&limit=100");
    await api.send("PUT /config", { body: { params: { open: true } } });
  },
};

/** Users, their sessions and roles. */
export const users: Chapter = {
  title: "users",
  async drive({ api }) {
    const people: { objectId: string; sessionToken: string }[] = [];
    for (const name of ["ada", "eve", "joe"]) {
      people.push(
        await api.send("POST /users", {
          body: { username: name, password: "secret", email: `${name}@example.com` },
          headers: { "X-Parse-Master-Key": "" },
        }),
      );
    }
    const [ada, eve, joe] = people;
    const asUser = (person: typeof ada) => ({
      "X-Parse-Master-Key": "",
      "X-Parse-REST-API-Key": "",
      "X-Parse-Session-Token": person?.sessionToken ?? "",
    });
    await api.send("POST /users", { body: { username: "ada", password: "again" } });
    await api.send("GET /login?username=ada&password=secret");
    await api.send("GET /login?username=ada&password=wrong");
    await api.send("GET /users/me", { headers: asUser(ada) });
    await api.send(`PUT /users/${ada?.objectId}`, { body: { email: "ada@example.org" }, headers: asUser(ada) });
    await api.send(`PUT /users/${ada?.objectId}`, { body: { nickname: "A" }, headers: asUser(ada) }); // a new column
    await api.send(`PUT /users/${ada?.objectId}`, { body: { email: "stolen@example.org" }, headers: asUser(eve) });
    await api.send(`PUT /users/${ada?.objectId}`, { body: { password: "changed" } });
    await api.send("POST /logout", { headers: asUser(eve) });
    const [staff] = (await api.send("GET /roles")).results;
    const members = [ada, joe].map((person) => ({ __type: "Pointer", className: "_User", objectId: person?.objectId }));
    await api.send(`PUT /roles/${staff.objectId}`, { body: { users: { __op: "AddRelation", objects: members } } });
    await api.send("POST /classes/Order", {
      body: { number: 400, status: "open", ACL: { "role:staff": { read: true, write: true } } },
      headers: asUser(joe),
    });
    await api.send("GET /classes/Order?order=number&limit=1000&keys=number", { headers: asUser(eve) });
    await api.send(`PUT /roles/${staff.objectId}`, {
      body: { users: { __op: "RemoveRelation", objects: members.slice(1) } },
    });
    await api.send(`DELETE /users/${joe?.objectId}`);
    await api.send("GET /sessions?order=createdAt");
    await api.send("POST /installations", { body: { deviceType: "ios", installationId: "1234", deviceToken: "abcd" } });
    await api.send("DELETE /roles/nobody0000");
  },
};
