import { existsSync, writeFileSync } from "node:fs";
import path from "node:path";
import { installPackage } from "../../support/binaries.ts";
import type { Application, Place } from "../harness/application.ts";
import { serve } from "../harness/program.ts";
import { concurrency } from "./concurrency.ts";
import { day, users } from "./day.ts";
import { refusals } from "./refusals.ts";
import { restarts, schema, shop } from "./schema.ts";

const version = "9.10.0";

/** A backend whose classes are tables: it changes them while it runs, when a client saves something new. */
export const parseServer: Application = {
  name: "parse-server",
  version,
  licence: "Apache-2.0",
  publishes: true,
  async install() {
    await folder();
  },
  async start(place) {
    if (!existsSync(configuration(place))) configure(place, {});
    const program = path.join(await folder(), "node_modules/parse-server/bin/parse-server");
    return serve({
      command: [process.execPath, program, configuration(place)],
      folder: place.folder,
      env: { PARSE_SERVER_LOG_LEVEL: "warn" },
      url: `http://127.0.0.1:${place.port}/parse/health`,
    });
  },
  client: {
    base: "/parse",
    headers: { "X-Parse-Application-Id": "shop", "X-Parse-Master-Key": "master" },
    varying: [
      [/127\.0\.0\.1:\d+/g, "host"],
      [/[0-9a-f]{32}_/g, "random"],
      [/(?<=\/|objectId%22%3A%22)[A-Za-z0-9]{10}(?=[ "?%]|$)/g, "objectId"],
      [/(?<="expiresAt":{"__type":"Date","iso":")[^"]*/g, "time"],
      [/(?<="ACL":{")[A-Za-z0-9]{10}(?=":)/g, "objectId"],
    ],
    varyingKeys: ["objectId", "createdAt", "updatedAt", "sessionToken", "installationId", "expiresAt"],
  },
  chapters: [shop, day, users, concurrency, schema, restarts],
  refusals,
};

// With a router of 2.3 this version answers each batch with "Internal server error.".
const folder = () => installPackage(`parse-server-${version}`, `parse-server@${version} router@2.2.0`);
const configuration = (place: Place) => path.join(place.folder, "config.json");

/** What it finds when it starts. */
export function configure(place: Place, options: object) {
  const { database, port } = place;
  writeFileSync(
    configuration(place),
    JSON.stringify({
      appId: "shop",
      masterKey: "master",
      masterKeyIps: ["127.0.0.1"],
      host: "127.0.0.1",
      port,
      serverURL: `http://127.0.0.1:${port}/parse`,
      databaseURI: `postgres://${database.user}@127.0.0.1:${database.port}/${database.name}`,
      allowClientClassCreation: true,
      fileUpload: { enableForPublic: true },
      logsFolder: path.join(place.folder, "logs"),
      ...options,
    }),
  );
}
