/** Words of a dialect, and what the Postgres manual writes instead. */
const dialect: Record<string, string> = {
  anew: "again",
  "whom|whoever|whomever": "a subject: the role, the session, the runner",
  "dearer|dearest": "more expensive",
  "mend(?:s|ed|ing)?": "repair, correct",
  "told by": "recognised by",
  "so many": "a number of",
  "goes on|go on|went on": "continues",
  "for ever": "forever, permanently",
  "nobody listens": "nothing is listening",
  "sign of life": "heartbeat",
  "comes? near": "accesses",
  "goes without saying": "default",
  "hand(?:s|ed)? over|hand-over": "dispatch",
  "look(?:s|ed)? away": "ignore",
  "without a word": "silently",
  "as long as (?:it|one) likes": "any time",
};

/** The phrases of the dialect in a text, with what surrounds them. */
export function phrases(text: string): string[] {
  return Object.entries(dialect).flatMap(([words, instead]) =>
    [...text.matchAll(new RegExp(`.{0,30}\\b(?:${words})\\b.{0,30}`, "gi"))].map(([found]) => `${found} → ${instead}`),
  );
}
