import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { installPackage } from "../../support/binaries.ts";
import type { Application, Place } from "../harness/application.ts";
import { complete, makeFolder, serve } from "../harness/program.ts";
import { collections } from "./collections.ts";
import { concurrency } from "./concurrency.ts";
import { accounts, editing } from "./editing.ts";
import { refusals } from "./refusals.ts";
import { growth, migrations } from "./schema.ts";

const version = "11.17.4";
const nodeVersion = "22.23.5";

/** A content management system whose collections are tables: its users change the schema in the browser. */
export const directus: Application = {
  name: "directus",
  version,
  licence: "BUSL-1.1",
  publishes: false,
  async install() {
    await Promise.all([programs.directus(), programs.node()]);
  },
  async prepare(place) {
    for (const name of ["uploads", "extensions"]) makeFolder(path.join(place.folder, name));
    writeFileSync(path.join(place.folder, "package.json"), "{}");
    await complete(await run(place, "bootstrap"));
  },
  async start(place) {
    return serve({ ...(await run(place, "start")), url: `http://127.0.0.1:${place.port}/server/ping` });
  },
  client: {
    base: "",
    headers: {},
    varying: [
      [/127\.0\.0\.1:\d+/g, "host"],
      [/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, "uuid"],
      [/\$argon2id\$[^"]*/g, "hash"],
      [/"\d{4}-\d\d-\d\dT[^"]*"/g, "time"],
    ],
    varyingKeys: ["access_token", "refresh_token", "hash", "mainHash"],
  },
  async logIn(api) {
    delete api.headers.authorization;
    const { data } = await api.send("POST /auth/login", { body: { email: administrator, password } });
    api.headers.authorization = `Bearer ${data.access_token}`;
  },
  chapters: [collections, editing, accounts, concurrency, growth, migrations],
  refusals,
};

const administrator = "admin@example.com";
const password = "only-for-tests";

const programs = {
  /** It runs on Node 22 alone. */
  node: async () => {
    const name = `node-${process.platform}-${process.arch}`;
    const folder = await installPackage(`node-${nodeVersion}`, `${name}@${nodeVersion}`);
    return path.join(folder, "node_modules", name, "bin/node");
  },
  directus: async () => {
    const folder = await installPackage(`directus-${version}`, `directus@${version}`, leaveOutSandbox);
    return path.join(folder, "node_modules/directus/cli.js");
  },
};

/** What runs scripts of its users has to be compiled, which needs a download; nothing here runs such scripts. */
function leaveOutSandbox(folder: string) {
  const sandbox = path.join(folder, "node_modules/isolated-vm");
  rmSync(sandbox, { recursive: true });
  mkdirSync(sandbox);
  writeFileSync(path.join(sandbox, "package.json"), JSON.stringify({ name: "isolated-vm", main: "index.js" }));
  writeFileSync(path.join(sandbox, "index.js"), "module.exports = {};");
}

/** What its command `database migrate:…` does, several times in one process. */
export async function migrate(place: Place, ...directions: ("up" | "down" | "latest")[]): Promise<void> {
  const [node, directory] = [await programs.node(), path.dirname(await programs.directus())];
  const module = (name: string) => pathToFileURL(path.join(directory, "../@directus/api/dist/database", name)).href;
  const script = `
    import open from "${module("index.js")}";
    import run from "${module("migrations/run.js")}";
    for (const direction of ${JSON.stringify(directions)}) await run(open(), direction);
    process.exit();`;
  await complete({ ...environment(place), command: [node, "--input-type=module", "--eval", script] });
}

async function run(place: Place, command: "bootstrap" | "start") {
  return { ...environment(place), command: [await programs.node(), await programs.directus(), command] };
}

function environment({ database, port, folder }: Place) {
  return {
    folder,
    env: {
      KEY: "notika",
      SECRET: "only-for-tests-only-for-tests-only",
      ADMIN_EMAIL: administrator,
      ADMIN_PASSWORD: password,
      DB_CLIENT: "pg",
      DB_HOST: "127.0.0.1",
      DB_PORT: String(database.port),
      DB_USER: database.user,
      DB_PASSWORD: "none",
      DB_DATABASE: database.name,
      HOST: "127.0.0.1",
      PORT: String(port),
      ACCESS_TOKEN_TTL: "1h",
      TELEMETRY: "false",
      LOG_LEVEL: "warn",
      EXTENSIONS_PATH: path.join(folder, "extensions"),
      STORAGE_LOCATIONS: "local",
      STORAGE_LOCAL_ROOT: path.join(folder, "uploads"),
      RATE_LIMITER_ENABLED: "false",
      PRESSURE_LIMITER_ENABLED: "false",
    },
  };
}
