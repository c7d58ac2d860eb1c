import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { expect, test } from "vitest";
import { literals, literalsOf } from "../../runner/commands/check/literals.ts";

test.for([
  ["strings of both quotes", `step.run("a", 'b')`, [["a"], ["b"]]],
  ["escapes", String.raw`"a\"b" 'c\'d' "\u00e9\x41\u{1f600}\n"`, [['a"b'], ["c'd"], ["éA😀\n"]]],
  ["nothing in comments", `// "a"\n/* 'b' */ "c" // it's`, [["c"]]],
  ["comments in strings", `"// a" '/* b'`, [["// a"], ["/* b"]]],
  ["templates", "`a` `b @{c} d`", [["a"], ["b ", " d"]]],
  ["templates in templates", "`a @{b ? `c @{d}` : { e: 'f' }} g`", [["c ", ""], ["f"], ["a ", " g"]]],
  ["braces around templates", "function f() { return { a: `b@{c}` }; } 'd'", [["b", ""], ["d"]]],
  ["regular expressions with quotes", `x.replace(/"/g, 'a'); y = /['/]/; "b"`, [["a"], ["b"]]],
  ["divisions", `a / 2; b["c"] / d / "e"`, [["c"], ["e"]]],
  ["what looks like the end of a line", '"a\\\nb"', [["ab"]]],
] as const)("finds %s", ([, source, expected]) => {
  expect([...literals(source.replaceAll("@{", "${"))]).toEqual(expected);
});

test("follows relative imports, whatever they are called, once", async () => {
  const folder = await mkdtemp(path.join(tmpdir(), "notika-literals-"));
  await mkdir(path.join(folder, "lib/names"), { recursive: true });
  await writeFile(
    path.join(folder, "task.ts"),
    `import { a } from "./lib/one.js"; import x from "node:fs"; step.run("own", a)`,
  );
  await writeFile(
    path.join(folder, "lib/one.ts"),
    `import "../task.ts"; export * from "./names"; const a = \`mail to \${x}\`; \`\${a}\``,
  );
  await writeFile(path.join(folder, "lib/names/index.js"), `module.exports = 'named elsewhere'`);

  const found = await literalsOf(path.join(folder, "task.ts"));

  expect(["own", "named elsewhere", "mail to Ada", "mail", "mail to", "other"].map((text) => found.has(text))).toEqual([
    true,
    true,
    true,
    false,
    false,
    false,
  ]);
  await rm(folder, { recursive: true });
});
