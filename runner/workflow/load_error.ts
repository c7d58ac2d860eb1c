import { spawnSync } from "node:child_process";
import path from "node:path";
import { fileURLToPath } from "node:url";

/**
 * Tells where and why a module could not be loaded: `tasks/a.ts:3: Unexpected ";"`, the path relative to the current folder.
 */
export function describeLoadError(error: unknown, file: string): string {
  const { message, stack = "" } = error instanceof Error ? error : { message: String(error) };
  const compiled = [...message.matchAll(/^(.+):(\d+):\d+: ERROR: (.+)$/gm)];
  if (compiled.length > 0) return compiled.map(([, at = "", line, text]) => `${shown(at)}:${line}: ${text}`).join("\n");

  const reason = message.split("\nRequire stack:")[0]?.replaceAll(`${process.cwd()}${path.sep}`, "");
  return `${placeIn(stack, file) ?? syntaxErrorIn(file, error) ?? shown(file)}: ${reason}`;
}

/** The name of an imported package that is not installed; undefined: the error has another cause. */
export function missingPackage(error: unknown): string | undefined {
  const { message } = error instanceof Error ? error : { message: "" };
  return /^Cannot find (?:package|module) '((?:@[^'/]+\/)?[^'./#:][^'/:]*)['/]/.exec(message)?.[1];
}

/** The first line of a stack that is in the project's own code; frames below the loader are not the module's. */
function placeIn(stack: string, file: string): string | undefined {
  const [own = "", loader] = stack.split(/\n.*\bModuleJob\./);
  if (loader === undefined) return undefined;
  const project = path.dirname(path.dirname(path.resolve(file))) + path.sep;
  for (const [, at = "", line] of own.matchAll(/((?:file:\/\/)?\/[^\s()?]+?)(?:\?[^\s:]*)?:(\d+)(?::\d+)?\)?$/gm)) {
    const place = at.startsWith("file:") ? fileURLToPath(at) : at;
    if (place.startsWith(project) && !place.includes("node_modules")) return `${shown(place)}:${line}`;
  }
  return undefined;
}

/** Where the syntax error of a JavaScript file is; Node writes the line only to stderr. */
function syntaxErrorIn(file: string, error: unknown): string | undefined {
  if (!(error instanceof SyntaxError) || !/js$/.test(file)) return undefined;
  const { stderr } = spawnSync(process.execPath, ["--check", file], { encoding: "utf8" });
  const line = /:(\d+)$/m.exec(stderr)?.[1];
  return line && `${shown(file)}:${line}`;
}

function shown(file: string): string {
  return path.relative("", file);
}
