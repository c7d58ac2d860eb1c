import { randomUUID } from "node:crypto";
import { readdir } from "node:fs/promises";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { register as registerCommonJs } from "tsx/cjs/api";
import { register } from "tsx/esm/api";
import { NotikaError } from "../errors.ts";
import { describeLoadError, missingPackage } from "./load_error.ts";
import { asWorkflow, type Workflow } from "./workflow.ts";

/** Workflows by name. */
export type Tasks = Record<string, Workflow>;

/** The tasks of a folder, or the given exports of task modules, by name. */
export async function toTasks(given: string | Record<string, unknown>): Promise<Tasks> {
  if (typeof given === "string") return loadTasks(given);
  return Object.fromEntries(Object.entries(given).map(([name, exported]) => [name, asWorkflow(exported)]));
}

/**
 * Loads the task modules of a folder: `tasks/welcome_email.ts` is the workflow `welcome_email`.
 * Each call loads the modules and their imports again.  Throws NOTIKA_TASKS, with all problems.
 */
export async function loadTasks(folder: string): Promise<Tasks> {
  const files = await taskFiles(folder);
  const problems = namingProblems(files);
  const hints = problems.map(() => whatTasksAre);
  const tasks: Tasks = {};
  const load = freshLoader();
  for (const file of files) {
    try {
      tasks[path.parse(file).name] = asWorkflow(await load(file));
    } catch (error) {
      problems.push(describeLoadError(error, file));
      const missing = missingPackage(error);
      if (missing) hints.push(`Install the missing package: npm install ${missing}`);
      else if (error instanceof TypeError) hints.push(whatTasksAre);
    }
  }
  if (problems.length > 0) {
    // A problem in a helper that several tasks import is reported once.
    throw new NotikaError("NOTIKA_TASKS", [...new Set(problems)].join("\n"), {
      ...(hints.length > 0 && { hint: [...new Set(hints)].join("\n") }),
    });
  }
  return tasks;
}

const whatTasksAre =
  "The default export of a task module is a function or workflow({ … }). Put helpers into another folder, or into files that begin with _.";

/** The files of a folder that are tasks. */
export async function taskFiles(folder: string): Promise<string[]> {
  const entries = await readdir(folder, { withFileTypes: true }).catch((cause) => {
    throw new NotikaError("NOTIKA_TASKS", `there is no folder ${folder}`, {
      hint: "Name the folder of the task modules with --tasks.",
      cause,
    });
  });
  return entries
    .filter((entry) => !entry.isDirectory() && isTaskFile(entry.name))
    .map((entry) => path.join(folder, entry.name))
    .sort();
}

function isTaskFile(name: string): boolean {
  return /^[^._].*\.[mc]?[jt]s$/.test(name) && !/\.(d|test|spec)\.[mc]?[jt]s$/.test(name);
}

function namingProblems(files: string[]): string[] {
  const taken = new Map<string, string>();
  return files.flatMap((file) => {
    const { name, base } = path.parse(file);
    const shown = path.relative("", file);
    if (!/^[A-Za-z][A-Za-z0-9_-]{0,62}$/.test(name)) {
      return `${shown}: ${name} is not a valid name for a workflow: up to 63 letters, digits, _ and -, starting with a letter`;
    }
    const other = taken.get(name);
    taken.set(name, base);
    return other ? `${shown}: ${other} is already the task ${name}` : [];
  });
}

const { cache } = createRequire(import.meta.url);

/** Loads files and their imports as if none had been loaded before; a module that two of them import is loaded once. */
function freshLoader() {
  // Node would find CommonJS modules of an earlier namespace by their relative paths.
  for (const name of Object.keys(cache)) if (name.includes("?namespace=notika-")) delete cache[name];
  const namespace = `notika-${randomUUID()}`;
  registerCommonJs({ namespace });
  const modules = register({ namespace });

  return async (file: string): Promise<unknown> => {
    const module: { default?: unknown } = await modules.import(pathToFileURL(file).href, import.meta.url);
    // A module that was compiled to CommonJS has its exports one level down.
    const exports = isCompiled(module.default) ? module.default : module;
    if (!("default" in exports)) throw new TypeError("it has no default export");
    return exports.default;
  };
}

function isCompiled(exported: unknown): exported is { default?: unknown } {
  return typeof exported === "object" && exported !== null && ("__esModule" in exported || "default" in exported);
}
