// The rooms of runner/, and which may know which.
import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";

/** From the ground up: a room knows only what stands before it.  A file that belongs to no room is a room of its own. */
const rooms = [
  "errors.ts",
  "printable.ts",
  "log.ts",
  "connection",
  "database",
  "workflow",
  "index.ts", // what `notika` exports: definitions only
  "install",
  "attempt",
  "worker",
  "embedded",
  "doctor",
  "testing",
  "commands",
  "cli.ts",
];

interface Import {
  /** The file that imports. */
  from: string;
  /** A file of ours, or a package. */
  what: string;
  isOurs: boolean;
  isTypeOnly: boolean;
}

const root = path.resolve("runner");
const files = readdirSync(root, { recursive: true, encoding: "utf8" })
  .map((file) => file.replaceAll(path.sep, "/"))
  .filter((file) => file.endsWith(".ts") && !file.startsWith("example/"));
const imports = files.flatMap(importsOf);

test("every file stands in a room", () => {
  expect(files.filter((file) => !rooms.includes(roomOf(file)))).toEqual([]);
  expect(rooms.filter((room) => !files.some((file) => roomOf(file) === room))).toEqual([]);
});

test("no room knows a higher one", () => {
  const upward = imports.filter(
    ({ from, what, isOurs }) => isOurs && rooms.indexOf(roomOf(what)) > rooms.indexOf(roomOf(from)),
  );

  expect(inWords(upward)).toEqual([]);
});

test("connection/ knows nothing of ours but errors", () => {
  const others = imports.filter(
    ({ from, what, isOurs }) =>
      isOurs && roomOf(from) === "connection" && !["connection", "errors.ts"].includes(roomOf(what)),
  );

  expect(inWords(others)).toEqual([]);
});

test("no files import each other in a circle", () => {
  const circles: string[] = [];
  const done = new Set<string>();
  function visit(file: string, trail: string[]) {
    if (trail.includes(file)) circles.push([...trail.slice(trail.indexOf(file)), file].join(" → "));
    if (done.has(file) || trail.includes(file)) return;
    for (const { what } of imports.filter(({ from, isOurs }) => isOurs && from === file)) visit(what, [...trail, file]);
    done.add(file);
  }
  for (const file of files) visit(file, []);

  expect(circles).toEqual([]);
});

test("one file depends on how graphile-worker works, and one on its schema", () => {
  const found = imports.filter(({ what }) => /^graphile-worker(\/|$)/.test(what));

  expect(inWords(found).sort()).toEqual([
    "install/bundle.ts → graphile-worker/dist/generated/sql.js",
    "worker/graphile.ts → graphile-worker",
  ]);
});

test("importing notika loads nothing of the runner", () => {
  const loaded = new Set(["index.ts"]);
  for (const file of loaded) {
    for (const { what, isOurs } of imports.filter(({ from, isTypeOnly }) => from === file && !isTypeOnly)) {
      if (isOurs) loaded.add(what);
      else expect(["sql-template-tag"], `${file} imports ${what}`).toContain(what);
    }
  }

  expect([...loaded].filter((file) => !/^(index|errors)\.ts$|^workflow\//.test(file))).toEqual([]);
});

function importsOf(file: string): Import[] {
  const text = readFileSync(path.join(root, file), "utf8");
  const statement =
    /^(?:import|export)\s+(type\s)?([^"';]*?)\s*from\s+"([^"]+)"|^import\s+"([^"]+)"|\bimport\(\s*["'`]([^"'`]+)["'`]|new URL\([^)]*?"(\.[^"]+\.ts)"/gm;
  return [...text.matchAll(statement)].flatMap(([, type, names = "", from, bare, dynamic, url]) => {
    const what = from ?? bare ?? dynamic ?? url ?? "";
    if (what.startsWith("node:")) return [];
    const isOurs = what.startsWith(".");
    const isTypeOnly =
      type !== undefined || (/^\{.*\}$/s.test(names) && !/[{,]\s*(?!type\s)\w/.test(names.replace(/,\s*\}$/, "}")));
    return [{ from: file, what: isOurs ? path.posix.join(path.posix.dirname(file), what) : what, isOurs, isTypeOnly }];
  });
}

function roomOf(file: string): string {
  return file.split("/")[0] ?? file;
}

function inWords(found: Import[]): string[] {
  return found.map(({ from, what }) => `${from} → ${what}`);
}
