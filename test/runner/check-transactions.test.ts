import { describe, expect, test } from "vitest";
import { readMigration, whatStays } from "../../runner/commands/check/migration.ts";

const maintenance = /egin maintenance before the migration: select notika\.begin_maintenance\('<reason>'\)/;

/** What is said when the last statement of a text is refused. */
function stays(text: string, file = "1.sql") {
  const migration = readMigration(file, text);
  return whatStays(migration, migration.statements.at(-1)?.line ?? 0);
}

describe("a refusal", () => {
  test.for([
    ["one statement", "alter table t drop a;"],
    ["a transaction", "begin;\nalter table t add b int;\nalter table t drop a;\ncommit;"],
    [
      "settings before a transaction",
      "set lock_timeout = '2s';\nbegin;\nalter table t add b int;\nalter table t drop a;\nend;",
    ],
    ["the first of several", "begin;\nalter table t drop a;\ncommit;\n"],
    ["an index that is built alone", "create index concurrently on t (a);"],
  ])("of %s leaves nothing", ([, text = ""]) => {
    expect(stays(text)).toBeUndefined();
  });

  test("of several statements leaves some where each is committed", () => {
    expect(stays("alter table t add b int;\n\nalter table t add c int;\nalter table t drop a;")).toMatch(
      /^Unless 1\.sql is run in one transaction, the changes of lines 1 to 3 stay after the refusal/,
    );
    expect(stays("alter table t add b int;\nalter table t drop a;")).toMatch(maintenance);
  });

  test.for([
    ["COMMIT in line 2", "line 1", "alter table t add b int;\ncommit;\nalter table t drop a;"],
    ["COMMIT in line 3", "line 2", "begin;\nalter table t add b int;\ncommit;\nbegin;\nalter table t drop a;\ncommit;"],
    ["BEGIN in line 2", "line 1", "alter table t add b int;\nbegin;\nalter table t drop a;\ncommit;"],
    [
      "CONCURRENTLY in line 2",
      "lines 1 to 2",
      "alter table t add b int;\ncreate index concurrently on t (b);\nalter table t drop a;",
    ],
    ["VACUUM T in line 1", "line 1", "vacuum t;\nalter table t drop a;"],
    [
      "-- +goose NO TRANSACTION in line 1",
      "line 2",
      "-- +goose NO TRANSACTION\nalter table t add b int;\nalter table t drop a;",
    ],
    [
      "-- migrate:up transaction:false in line 1",
      "line 2",
      "-- migrate:up transaction:false\nalter table t add b int;\nalter table t drop a;",
    ],
    ["--! no-transaction in line 1", "line 2", "--! no-transaction\nalter table t add b int;\nalter table t drop a;"],
    ["-- no-transaction in line 1", "line 2", "-- no-transaction\nalter table t add b int;\nalter table t drop a;"],
    [
      "-- atlas:txmode none in line 1",
      "line 2",
      "-- atlas:txmode none\nalter table t add b int;\nalter table t drop a;",
    ],
  ])("leaves what is committed before it: %s", ([commit, lines, text = ""]) => {
    expect(stays(text)).toContain(
      `1.sql is not one transaction (${commit}): the changes of ${lines} stay after the refusal, and a second attempt begins with them.`,
    );
    expect(stays(text)).toMatch(maintenance);
  });
});

test("what takes a migration back is not part of it", () => {
  for (const [up, down] of [
    ["-- migrate:up", "-- migrate:down"],
    ["-- +goose Up", "-- +goose Down"],
    ["-- +migrate Up", "-- +migrate Down"],
  ]) {
    const { sql, statements } = readMigration(
      "1.sql",
      `${up}\nalter table t drop a;\n${down}\nalter table t add a int;\n`,
    );
    expect(statements.map(({ line, text }) => [line, text])).toEqual([[2, "alter table t drop a"]]);
    expect(sql.split("\n")).toHaveLength(5);
  }
});
