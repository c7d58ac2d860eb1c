import { describe, expect, test } from "vitest";
import { type Account, prove } from "./proof.ts";

const sound: Account = {
  committed: new Map([
    ["insert:1:1", 1000],
    ["update:1:2", 2000],
  ]),
  acknowledged: new Set(["insert:1:1"]),
  refused: new Set(["insert:2:1"]),
  ran: new Map([
    ["insert:1:1", [1100]],
    ["update:1:2", [2700, 2900]],
  ]),
  noted: new Map([
    ["insert:1:1", 1],
    ["update:1:2", 1],
  ]),
};

describe("the proof that the runs are the committed changes", () => {
  test("has nothing to object when they are, and counts", () => {
    expect(prove(sound)).toEqual({ written: 2, ran: 2, twice: 1, worstPause: 700, objections: [] });
  });

  test.each<[what: string, account: Partial<Account>, objection: string]>([
    [
      "a change that did not run",
      { ran: new Map([["insert:1:1", [1100]]]) },
      "1 changes were committed and have not run: update:1:2",
    ],
    [
      "a run of what was not committed",
      { ran: new Map([...sound.ran, ["insert:2:1", [1]]]) },
      "1 changes have run and were not committed: insert:2:1",
    ],
    [
      "a commit that the server forgot",
      { acknowledged: new Set(["insert:3:1"]) },
      "1 changes were committed, and the database has forgotten them: insert:3:1",
    ],
    [
      "a change that was undone and is there",
      { refused: new Set(["insert:1:1"]) },
      "1 changes were not committed, and the database has them: insert:1:1",
    ],
    [
      "a step that took effect twice",
      { noted: new Map([...sound.noted, ["insert:1:1", 2]]) },
      "1 changes were noted by no step or by more than one: insert:1:1",
    ],
    [
      "a step that took no effect",
      { noted: new Map([["insert:1:1", 1]]) },
      "1 changes were noted by no step or by more than one: update:1:2",
    ],
  ])("objects to %s", (_, account, objection) => {
    expect(prove({ ...sound, ...account }).objections).toEqual([objection]);
  });
});
