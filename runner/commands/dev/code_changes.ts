import { type FSWatcher, readdirSync, watch } from "node:fs";
import path from "node:path";

/** Calls `onChange` shortly after code in a folder or below it has changed.  Returns the function that ends this. */
export function onCodeChange(folder: string, onChange: () => void): () => void {
  let watchers: FSWatcher[] = [];
  let timer: NodeJS.Timeout | undefined;

  function heard(_event: string, file: string | null) {
    if (file && /~$|^\.|\.sw.$/.test(path.basename(file))) return; // a temporary file of an editor
    clearTimeout(timer);
    timer = setTimeout(() => {
      look();
      onChange();
    }, 100);
  }

  // Folder by folder: Node's recursive watch on Linux loses a file that an editor has replaced.
  function look() {
    for (const watcher of watchers) watcher.close();
    watchers = foldersIn(folder).map((each) => watch(each, heard).on("error", () => {}));
  }

  look();
  return () => {
    clearTimeout(timer);
    for (const watcher of watchers) watcher.close();
  };
}

function foldersIn(folder: string): string[] {
  try {
    const entries = readdirSync(folder, { recursive: true, withFileTypes: true });
    const names = entries
      .filter((entry) => entry.isDirectory())
      .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)));
    return ["", ...names.filter((name) => !/(^|[/\\])(\.|node_modules)/.test(name))].map((name) =>
      path.join(folder, name),
    );
  } catch {
    return []; // the folder was removed
  }
}
