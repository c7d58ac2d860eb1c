/** What was committed, and what was done about it. */
export interface Account {
  /** The changes that stand in the database's own ledger, with the time of each in milliseconds. */
  committed: Map<string, number>;
  /** The changes whose writer was told that they were committed. */
  acknowledged: Set<string>;
  /** The changes whose writer was told that they were not, or that undid them. */
  refused: Set<string>;
  /** What runs did outside of the database: when, each time. */
  ran: Map<string, number[]>;
  /** What runs did in a step that writes to the database, and how often. */
  noted: Map<string, number>;
}

/** What an account says. */
export interface Proof {
  written: number;
  /** How many of the changes have run. */
  ran: number;
  /** How many have run more than once. */
  twice: number;
  /** The longest time between a change and its run, in milliseconds. */
  worstPause: number;
  /** What must not be, a sentence each; empty when the runs are the committed changes. */
  objections: string[];
}

/** Compares what ran with what was committed. */
export function prove({ committed, acknowledged, refused, ran, noted }: Account): Proof {
  const changes = [...committed.keys()];
  const pauses = changes.map((change) => firstOf(ran.get(change)) - (committed.get(change) as number));
  return {
    written: committed.size,
    ran: changes.filter((change) => ran.has(change)).length,
    twice: changes.filter((change) => (ran.get(change)?.length ?? 0) > 1).length,
    worstPause: pauses.filter(Number.isFinite).reduce((worst, pause) => Math.max(worst, pause), 0),
    objections: [
      objection(
        "were committed and have not run",
        changes.filter((change) => !ran.has(change)),
      ),
      objection(
        "have run and were not committed",
        [...ran.keys()].filter((change) => !committed.has(change)),
      ),
      objection(
        "were committed, and the database has forgotten them",
        [...acknowledged].filter((change) => !committed.has(change)),
      ),
      objection(
        "were not committed, and the database has them",
        [...refused].filter((change) => committed.has(change)),
      ),
      objection(
        "were noted by no step or by more than one",
        changes.filter((change) => ran.has(change) && noted.get(change) !== 1),
      ),
    ].filter((found) => found !== undefined),
  };
}

const firstOf = (times: number[] = []) => Math.min(...times);

function objection(what: string, changes: string[]): string | undefined {
  if (changes.length === 0) return undefined;
  const shown = changes.slice(0, 5).join(", ");
  return `${changes.length} changes ${what}: ${shown}${changes.length > 5 ? ", …" : ""}`;
}
