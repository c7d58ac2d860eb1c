import type { Answer } from "./api.ts";

/** Where the answers with Notika are not those without it. */
export function compareAnswers(without: Answer[], beside: Answer[]): string[] {
  const objections: string[] = [];
  for (let index = 0; index < Math.max(without.length, beside.length); index++) {
    const [one, other] = [without[index], beside[index]];
    if (one && other && one.request === other.request && one.status === other.status) {
      if (one.normalised === other.normalised) continue;
    }
    const [left, right] = [one, other].map((answer) => (answer ? `${answer.status} ${answer.normalised}` : "nothing"));
    objections.push(
      `answer ${index}, ${one?.request}\n  without ${around(left, right)}\n  with    ${around(right, left)}`,
    );
    if (one?.request !== other?.request) break; // the rest is out of step
  }
  return objections;
}

/** A text, near where another differs from it. */
function around(text = "", other = ""): string {
  const at = [...text].findIndex((character, index) => character !== other[index]);
  return text.slice(Math.max(at - 150, 0), at + 150);
}

/** The lines that only one of two lists has. */
export function differences(without: string[], beside: string[]): string[] {
  return [
    ...without.filter((line) => !beside.includes(line)).map((line) => `schema, only without: ${line}`),
    ...beside.filter((line) => !without.includes(line)).map((line) => `schema, only with: ${line}`),
  ];
}

export function asLine(answer: Pick<Answer, "request" | "status" | "normalised"> | undefined): string {
  if (!answer) return "no request";
  const { request, status, normalised } = answer;
  return `${request}: ${status} ${normalised.length > 400 ? `${normalised.slice(0, 400)}…` : normalised}`;
}
