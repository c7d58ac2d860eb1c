// Runs the CLI once for each line of stdin, a JSON array of arguments, in one process, and says what it did in a line each.
import { createInterface } from "node:readline";
import { pathToFileURL } from "node:url";

const cli = pathToFileURL("runner/cli.ts").href;
const said = { stdout: "", stderr: "" };
const answer = process.stdout.write.bind(process.stdout);
for (const name of ["stdout", "stderr"] as const) {
  process[name].write = ((text: string) => {
    said[name] += text;
    return true;
  }) as never;
  process[name].setMaxListeners(0);
}

let count = 0;
for await (const line of createInterface({ input: process.stdin })) {
  process.argv.splice(2, Infinity, ...(JSON.parse(line) as string[]));
  process.exitCode = undefined;
  Object.assign(said, { stdout: "", stderr: "" });
  const failure = await import(`${cli}?${count++}`).then(
    () => undefined,
    (error) => String(error.stack),
  );
  answer(`${JSON.stringify({ ...said, code: process.exitCode, failure })}\n`);
}
process.exit(0);
