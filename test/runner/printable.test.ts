import { describe, expect, test } from "vitest";
import { indented, printable, printableJson, printableScript } from "../../runner/printable.ts";

const all = String.fromCharCode(...Array.from({ length: 0x10000 }, (_, unit) => unit));
const acts = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u;

describe("what others wrote", () => {
  test.each([
    ["plain text, ümläuts and 中文 😀", "plain text, ümläuts and 中文 😀"],
    ["\x1b[31mred\x1b]0;title\x07", "\\x1b[31mred\\x1b]0;title\\x07"],
    ["\x00\x7f\x80\x9b31m\xad", "\\x00\\x7f\\x80\\x9b31m\\xad"],
    ["one\r\n\ttwo", "one\\r\\n\\ttwo"],
    [
      "\u202eexe.\u2066\u200b\u200f\u2028\u2029\ufeff\u061c",
      "\\u202eexe.\\u2066\\u200b\\u200f\\u2028\\u2029\\ufeff\\u061c",
    ],
    ["\u{e0041}\ud800", "\\udb40\\udc41\\ud800"],
  ])("stays on its line and does nothing: %j", (text, shown) => {
    expect(printable(text)).toBe(shown);
  });

  test("holds no character that acts, whatever it was", () => {
    expect(printable(all)).not.toMatch(acts);
    expect(indented(all).replaceAll("\n", "")).not.toMatch(acts);
    expect(printableScript(all).replaceAll(/[\n\t]/g, "")).not.toMatch(acts);
    expect(printableJson({ [all]: all })).not.toMatch(acts);
  });

  test("does not begin a line that it does not own", () => {
    expect(indented("one\r\n\ntwo\rthree\u2028four\x85five")).toBe("one\n\n  two\\rthree\\u2028four\\x85five");
    expect(indented("one\ntwo", "-- ")).toBe("one\n-- two");
  });

  test("is the same JSON", () => {
    const data = { all, list: ["\x1b", { "\u202e": null }], n: 1 };

    expect(JSON.parse(printableJson(data))).toEqual(data);
    expect(JSON.parse(printableJson(data, 2))).toEqual(data);
    expect(printableJson(["\x7f\x9b"], 2)).toBe('[\n  "\\u007f\\u009b"\n]');
    expect(printableJson(undefined)).toBe("undefined");
  });

  test("keeps the lines and tabs of SQL", () => {
    expect(printableScript('select\n\t1 as "\x1b\r"')).toBe('select\n\t1 as "\\x1b\\r"');
  });
});
