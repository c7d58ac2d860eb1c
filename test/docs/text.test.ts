import { existsSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { parse } from "yaml";
import { pageNames, readPage } from "../support/page.ts";
import { phrases } from "../support/phrases.ts";

const root = path.resolve(import.meta.dirname, "../..");
const pages = await Promise.all(
  [...(await pageNames()), "llms.txt"].map(async (name) => ({ name, ...(await readPage(name)) })),
);
const page = (name: string) => pages.find((one) => one.name === name) ?? pages[0];

test("README is short", () => {
  expect(page("README.md")?.text.split("\n").length).toBeLessThanOrEqual(200);
});

test("README and llms.txt link every page", async () => {
  const names = (await readdir(path.join(root, "docs"))).filter((name) => name.endsWith(".md"));

  for (const name of ["README.md", "llms.txt"]) {
    const missing = names.filter((file) => !page(name)?.text.includes(`(docs/${file})`));
    expect({ name, missing }).toEqual({ name, missing: [] });
  }
});

describe.each(pages)("$name", ({ name, text, all }) => {
  test("has blocks only of languages that a test runs or reads", () => {
    const known = new Set(["", "sql", "ts", "sh", "yaml", "ini", "Dockerfile"]);

    expect(all.filter(({ language }) => !known.has(language))).toEqual([]);
    expect(text.match(/^```/gm)?.length ?? 0).toBe(all.length * 2);
  });

  test("has links that lead somewhere", async () => {
    const dead: string[] = [];
    for (const [, link = ""] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      const [file = "", anchor] = link.split("#");
      const target = file ? path.join(root, path.dirname(name), file) : path.join(root, name);
      if (!existsSync(target)) dead.push(link);
      else if (anchor !== undefined && !anchors(await readFile(target, "utf8")).includes(anchor)) dead.push(link);
    }
    expect(dead).toEqual([]);
  });

  test("has no cell of a table that is longer than a line", () => {
    const cells = text
      .split("\n")
      .filter((line) => line.startsWith("|"))
      .flatMap((line) => line.split("|").map((cell) => cell.trim()));

    expect(cells.filter((cell) => cell.length > 120)).toEqual([]);
  });

  test("is written in plain English", () => {
    expect(phrases(prose(text))).toEqual([]);
  });
});

test("deploy.md: the manifest and the unit are what Kubernetes and systemd can read, and leave time to stop", () => {
  const deploy = page("docs/deploy.md");
  const [manifest = "", unit = "", image = ""] = ["yaml", "ini", "Dockerfile"].map(
    (language) => deploy?.blocks(language)[0],
  );
  const { kind, spec } = parse(manifest);
  const { containers, terminationGracePeriodSeconds } = spec.template.spec;
  const keys = Object.fromEntries([...unit.matchAll(/^(\w+)=(.*)$/gm)].map(([, key, value]) => [key, value]));
  const command = containers[0].command as string[];
  const deadline = Number(command[command.indexOf("--deadline") + 1]);

  expect(kind).toBe("Deployment");
  expect(spec.selector.matchLabels).toEqual(spec.template.metadata.labels);
  expect(command.slice(0, 2)).toEqual(["node_modules/.bin/notika", "run"]);
  expect(terminationGracePeriodSeconds).toBeGreaterThan(deadline);
  expect(unit.match(/^\[\w+\]$/gm)).toEqual(["[Unit]", "[Service]", "[Install]"]);
  expect(keys.ExecStart).toContain(`/node_modules/.bin/notika run --tasks tasks --deadline ${deadline}`);
  expect(Number(keys.TimeoutStopSec)).toBeGreaterThan(deadline);
  expect(JSON.parse(/^CMD (.*)$/m.exec(image)?.[1] ?? "")).toEqual([
    "node_modules/.bin/notika",
    "run",
    "--tasks",
    "tasks",
    "--json",
  ]);
});

test("CONTRIBUTING.md names scripts of npm, projects and folders of tests that are there", async () => {
  const { scripts } = JSON.parse(await readFile(path.join(root, "package.json"), "utf8"));
  const commands = page("CONTRIBUTING.md")?.blocks("sh").join("") ?? "";
  const named = [...commands.matchAll(/npm (?:run )?([\w:]+)/g)].map(([, script = ""]) => script);
  const config = await readFile(path.join(root, "vitest.config.ts"), "utf8");

  expect(named.filter((script) => !scripts[script])).toEqual([]);
  expect(named.length).toBeGreaterThan(5);
  for (const [, project = "", place = ""] of commands.matchAll(/--project (\S+) (\S+)/g)) {
    expect({ place, exists: existsSync(path.join(root, place)) }).toEqual({ place, exists: true });
    expect(config).toContain(project.replace(/\d+$/, ""));
  }
});

test.each([
  { what: "the SQL", folders: ["sql", "migrations"], extension: ".sql" },
  { what: "the runner", folders: ["runner"], extension: ".ts" },
])("$what is commented, and speaks, in plain English", async ({ folders, extension }) => {
  expect(phrases(await sources(folders, extension))).toEqual([]);
});

test("errors.md lists the errors that Notika has", async () => {
  const { text = "" } = page("docs/errors.md") ?? {};
  const sql = await sources(["sql", "migrations"], ".sql");
  const runner = await sources(["runner"], ".ts");

  const states = new Set(sql.match(/\bNK0\d\d\b/g));
  const codes = new Set(runner.match(/(?<=")NOTIKA_[A-Z_]+(?=")/g)?.filter((code) => !environment.has(code)));
  expect(new Set(text.match(/(?<=^\| `)NK0\d\d/gm))).toEqual(states);
  expect(new Set(text.match(/(?<=^\| `)NOTIKA_\w+/gm))).toEqual(codes);
});

/** Variables of the environment, not codes of errors. */
const environment = new Set(["NOTIKA_DIRECT_URL"]);

async function sources(folders: string[], extension: string): Promise<string> {
  const texts = folders.map(async (folder) => {
    const names = (await readdir(path.join(root, folder), { recursive: true })).filter((name) =>
      name.endsWith(extension),
    );
    return Promise.all(names.map((name) => readFile(path.join(root, folder, name), "utf8")));
  });
  return (await Promise.all(texts)).flat().join("\n");
}

/** The anchors that GitHub gives to the headings of a page. */
function anchors(text: string): string[] {
  return [...text.replace(/^```.*?^```$/gms, "").matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) =>
    heading
      .toLowerCase()
      .replace(/[^\w\- ]/g, "")
      .replaceAll(" ", "-"),
  );
}

/** The text without blocks and code. */
function prose(text: string): string {
  return text.replace(/^```.*?^```$/gms, "").replace(/`[^`\n]*`/g, "``");
}
