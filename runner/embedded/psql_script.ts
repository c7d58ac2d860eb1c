/*
 * Converts a script for psql, such as pg_dump writes, for a server, which does not understand psql's own commands, its
 * variables and the rows that follow a COPY.  The rules are those of psql's lexer.
 */

/** One statement of a script. */
export interface Statement {
  /** The line on which it begins, from 1. */
  line: number;
  text: string;
  /** The text without comments, with empty strings, and with a single space for any white space. */
  bare: string;
  /** The database to which the script has connected; undefined: to none. */
  database: string | undefined;
}

export interface Script {
  statements: Statement[];
  /** The same lines, without the text that only psql understands. */
  sql: string;
  /** The commands of psql that were left out and may matter. */
  commands: { line: number; text: string }[];
}

/** Reads a script for psql.  With `commitsEach`, the SQL commits each statement that is outside of a transaction block. */
export function readScript(script: string, { commitsEach = false } = {}): Script {
  const statements: Statement[] = [];
  const commands: Script["commands"] = [];
  const variables = new Map<string, string>();
  const kept: string[] = [];
  let text: string[] = [];
  let bare: string[] = [];
  let line = 1;
  let begun = 0;
  let parentheses = 0;
  let bodies = 0; // BEGIN ATOMIC and CASE that are open
  let hasEscapes = false; // backslashes are escapes in any string
  let database: string | undefined;
  let isInBlock = false;

  /** Keeps a token; `seen` replaces it in the bare text. */
  function keep(token: string, seen = token) {
    kept.push(token);
    if (text.length > 0 || seen.trim() !== "") {
      if (text.length === 0) begun = line;
      text.push(token);
      bare.push(seen);
    }
    line += lineEnds(token);
  }

  function leaveOut(token: string) {
    kept.push("\n".repeat(lineEnds(token)));
    line += lineEnds(token);
  }

  function end(isEnded = true) {
    const statement = text.join("").trim();
    if (statement !== "") {
      const seen = bare.join("").replace(/\s+/g, " ").trim();
      statements.push({ line: begun, text: statement, bare: seen, database });
      const escapes = /^set (?:session )?standard_conforming_strings (?:=|to) (\w+)/i.exec(seen)?.[1];
      if (escapes) hasEscapes = /^(off|false|no|0)$/i.test(escapes);
      if (/^(begin|start transaction)\b/i.test(seen)) isInBlock = true;
      else if (/^(commit|end|rollback|abort)\b/i.test(seen)) isInBlock = false;
      else if (commitsEach && !isInBlock && isEnded) kept.push(" commit;");
    }
    text = [];
    bare = [];
    parentheses = 0;
    bodies = 0;
  }

  let at = 0;
  /** Takes the text that matches the pattern at this position; undefined: none does. */
  function take(pattern: RegExp): string | undefined {
    pattern.lastIndex = at;
    const found = pattern.exec(script)?.[0];
    if (!found) return undefined;
    at += found.length;
    return found;
  }

  while (at < script.length) {
    const plain = take(/[^'"$\\;:()\-/\w\x80-\uffff]+/y);
    if (plain) {
      keep(plain);
      continue;
    }
    const word = take(/[\w\x80-\uffff][\w$\x80-\uffff]*/y);
    if (word) {
      const prefixed = /^(?:e|b|x|n)$/i.test(word) && script[at] === "'";
      keep(word);
      if (prefixed) string(hasEscapes || /^e$/i.test(word));
      else bodies += change(word.toLowerCase(), bodies);
      continue;
    }

    switch (script[at]) {
      case "'":
        string(hasEscapes);
        break;
      case '"':
        keep(take(/"(?:[^"]|"")*(?:"|$)/y) ?? "");
        break;
      case "$": {
        const tag = take(/\$(?:[A-Za-z_\x80-\uffff][\w\x80-\uffff]*)?\$/y);
        if (tag) {
          const close = script.indexOf(tag, at);
          const stop = close < 0 ? script.length : close + tag.length;
          keep(tag + script.slice(at, stop), "''");
          at = stop;
        } else keep(take(/\$/y) ?? "");
        break;
      }
      case "-":
        keep(...comment(/--[^\n]*/y, /-/y));
        break;
      case "/":
        if (script.startsWith("/*", at)) keep(blockComment(), " ");
        else keep(take(/\//y) ?? "");
        break;
      case ":":
        variable();
        break;
      case "(":
      case ")":
        parentheses = Math.max(0, parentheses + (script[at] === "(" ? 1 : -1));
        keep(script[at++] ?? "");
        break;
      case ";":
        at += 1;
        if (parentheses === 0 && bodies === 0) {
          kept.push(";");
          const copies = /^copy .*\bfrom stdin\b/i.test(bare.join("").replace(/\s+/g, " ").trim());
          end();
          if (copies) rows();
        } else keep(";");
        break;
      default:
        command();
    }
  }
  end(false);
  return { statements, sql: kept.join(""), commands };

  function string(escapes: boolean) {
    const found = take(escapes ? /'(?:[^'\\]|''|\\[\s\S])*(?:'|$)/y : /'(?:[^']|'')*(?:'|$)/y);
    keep(found ?? script.slice(at++, at), "''");
  }

  function comment(pattern: RegExp, otherwise: RegExp): [string, string?] {
    const found = take(pattern);
    return found ? [found, " "] : [take(otherwise) ?? ""];
  }

  function blockComment(): string {
    const from = at;
    let depth = 0;
    do {
      const mark = /\/\*|\*\//g;
      mark.lastIndex = at;
      const found = mark.exec(script);
      if (!found) {
        at = script.length;
        break;
      }
      at = mark.lastIndex;
      depth += found[0] === "/*" ? 1 : -1;
    } while (depth > 0);
    return script.slice(from, at);
  }

  /** Inside a function's BEGIN ATOMIC a semicolon ends no statement. */
  function change(word: string, open: number): number {
    if (word === "begin") return /^create (or replace )?(function|procedure)\b/i.test(start()) ? 1 : 0;
    if (open > 0) return word === "case" ? 1 : word === "end" ? -1 : 0;
    return 0;
  }

  function start(): string {
    return bare.slice(0, 12).join("").replace(/\s+/g, " ").trim();
  }

  function variable() {
    const found = take(/::|:=|:(?:'\w+'|"\w+"|\w+)/y) ?? take(/:/y) ?? "";
    const name = /^:['"]?(\w+)/.exec(found)?.[1];
    const value = name === undefined ? undefined : variables.get(name);
    if (value === undefined) return keep(found);
    if (found[1] === "'") return keep(`'${value.replaceAll("'", "''")}'`, "''");
    keep(found[1] === '"' ? `"${value.replaceAll('"', '""')}"` : value);
  }

  /** Rows of a COPY, up to the line that ends them. */
  function rows() {
    const last = /^\\\.\r?$/m;
    const from = script.indexOf("\n", at);
    if (from < 0) return;
    const rest = last.exec(script.slice(from));
    const stop = rest ? from + rest.index + rest[0].length : script.length;
    leaveOut(script.slice(at, stop));
    at = stop;
  }

  function command() {
    const started = line;
    const found = take(/\\[^\n]*/y) ?? script.slice(at++, at);
    const [, name = "", rest = ""] = /^\\(\S*)\s*(.*?)\s*$/.exec(found) ?? [];
    leaveOut(found);
    if (/^(g|gx)$/.test(name)) return end();
    if (name === "set") {
      const [, variableName = "", value = ""] = /^(\S+)\s*(.*)$/.exec(rest) ?? [];
      variables.set(variableName, unquoted(value));
    } else if (name === "unset") {
      variables.delete(rest);
    } else if (/^c(onnect)?$/.test(name)) {
      database = unquoted(/^(?:-reuse-previous=\w+\s+)?("[^"]*"|'[^']*'|\S*)/.exec(rest)?.[1] ?? "").replace(
        /^"(.*)"$/,
        "$1",
      );
      database = /\bdbname='?([^' ]+)/.exec(database)?.[1] ?? database;
    } else if (!/^(restrict|unrestrict|echo|qecho|warn|timing|pset|encoding|errverbose|x|a|t|q|o|\.|)$/.test(name)) {
      commands.push({ line: started, text: found.trim() });
      // These run the statement before them.
      if (/^(gexec|gset|gdesc|crosstabview|watch|bind.*|parse)$/.test(name)) {
        text = [];
        bare = [];
      }
    }
  }
}

function lineEnds(text: string): number {
  let count = 0;
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) count += 1;
  return count;
}

function unquoted(value: string): string {
  return value.replace(/'((?:[^']|'')*)'/g, (_, inside: string) => inside.replaceAll("''", "'"));
}
