import { styleText } from "node:util";
import type { RunObserver } from "../../attempt/conclusion.ts";
import { color, fieldText, type Log, makeLog, styled } from "../../log.ts";
import { indented, printable } from "../../printable.ts";

/** Formats the log of tasks and runner for a terminal: `· #7 Dear Ada, welcome! to=ada@example.com` */
export const devLog: Log = makeLog((level, message, { run, workflow: _, stack, ...fields }) => {
  const sign = level === "info" ? styled("dim", "·") : styled(color[level], "!");
  return `${sign} ${run === undefined ? "" : styled("dim", `#${printable(String(run))} `)}${styled(color[level], indented(message))}${fieldText(fields)}${stack ? `\n  ${styled("dim", indented(String(stack)))}` : ""}`;
});

/** Prints one line for each attempt of a run on stdout: `✓ #7 welcome_customer insert shop.customers 3 ms` */
export const runLine: RunObserver = (event, { ms, attempt, error, last }) => {
  const style = error ? (last ? "red" : "yellow") : "green";
  const sign = error ? (last ? "✗" : "↻") : "✓";
  const about = [event.operation, event.table, `${ms} ms${attempt > 1 ? `, attempt ${attempt}` : ""}`]
    .filter((part) => part !== null)
    .join(" ");
  const outcome = error
    ? `\n  ${styleText(style, indented(error.message, "    "))}${last ? "" : ", will be retried"}`
    : "";
  const [id, workflow] = [printable(event.id), printable(event.workflow)];
  process.stdout.write(
    `${styleText(style, sign)} ${styleText("dim", `#${id}`)} ${workflow} ${styleText("dim", printable(about))}${outcome}\n`,
  );
};

/** Message, detail and hint of an error, each on its own line. */
export function explained({ message, detail, hint }: Error & { detail?: string; hint?: string }): string {
  return [message, detail, hint].filter(Boolean).join("\n");
}
