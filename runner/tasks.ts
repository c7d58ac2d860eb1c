import { readdir } from "node:fs/promises";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { tsImport } from "tsx/esm/api";
import { NotikaError } from "./errors.ts";
import { asWorkflow, type Workflow } from "./workflow.ts";

/** Workflows by name. */
export type Tasks = Record<string, Workflow>;

/** Loads the task modules of a folder: `tasks/welcome_email.ts` is the workflow `welcome_email`. */
export async function loadTasks(folder: string): Promise<Tasks> {
  const files = (await taskFiles(folder)).sort();
  const loaded = await Promise.allSettled(files.map((file) => loadTask(path.join(folder, file))));

  const problems = loaded.flatMap((result, index) =>
    result.status === "rejected" ? [`${path.join(folder, files[index] ?? "")}: ${describe(result.reason)}`] : [],
  );
  const names = files.map((file) => path.parse(file).name);
  for (const name of names.filter((name, index) => names.indexOf(name) !== index)) {
    problems.push(`${folder}: more than one file is the task ${name}`);
  }
  for (const name of names.filter((name) => !/^[A-Za-z_][A-Za-z0-9_-]{0,62}$/.test(name))) {
    problems.push(`${folder}: ${name} cannot be a workflow's name: letters, digits, _ and - only, 63 at most`);
  }
  if (problems.length > 0) {
    throw new NotikaError("NOTIKA_TASKS", problems.join("\n"), {
      hint: "A task module exports by default a function or workflow({ … }). Helpers belong in another folder, or in files that begin with _.",
    });
  }
  return Object.fromEntries(
    loaded.flatMap((result, index) => (result.status === "fulfilled" ? [[names[index], result.value]] : [])),
  );
}

async function taskFiles(folder: string): Promise<string[]> {
  try {
    const files = await readdir(folder);
    return files.filter((file) => /^[^._].*\.[mc]?[jt]s$/.test(file) && !/\.(d|test|spec)\.[mc]?[jt]s$/.test(file));
  } catch (cause) {
    throw new NotikaError("NOTIKA_TASKS", `there is no folder ${folder}`, {
      hint: "Name the folder of the task modules with --tasks.",
      cause,
    });
  }
}

// tsx also where plain import would do: each call loads the file and what it imports anew.
async function loadTask(file: string): Promise<Workflow> {
  const module: { default?: unknown } = await tsImport(pathToFileURL(file).href, import.meta.url);
  if (!("default" in module)) throw new TypeError("it has no default export");
  // A module that was compiled to CommonJS has its default export one level down.
  const exported = module.default as { default?: unknown } | undefined;
  return asWorkflow(exported && typeof exported === "object" && "default" in exported ? exported.default : exported);
}

function describe(reason: unknown): string {
  return reason instanceof Error ? reason.message : String(reason);
}
