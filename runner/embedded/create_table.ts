/** A CREATE TABLE without the default, check or constraint at a position in it; undefined: there is none. */
export function withoutClause(text: string, at: number): string | undefined {
  if (!/^\s*create\s+(unlogged\s+|foreign\s+)?table\b/i.test(text)) return undefined;
  const item = itemsOf(text).find(({ start, end }) => start <= at && at < end);
  if (!item) return undefined;
  const content = text.slice(item.start, item.end);

  if (/^\s*(constraint\s+("[^"]*"|\S+)\s+)?(check|exclude|foreign|primary|unique)\b/i.test(content)) {
    return text.slice(0, item.before) + text.slice(item.isFirst && text[item.end] === "," ? item.end + 1 : item.end);
  }
  const clauses = clausesOf(content).map((start) => start + item.start);
  const from = clauses.findLast((start) => start <= at);
  if (from === undefined) return undefined;
  const until = clauses.find((start) => start > at) ?? item.end;
  return `${text.slice(0, from)} ${text.slice(until)}`;
}

/** The positions of the items in the first parentheses. */
function itemsOf(text: string): { start: number; end: number; before: number; isFirst: boolean }[] {
  const items: { start: number; end: number; before: number; isFirst: boolean }[] = [];
  let depth = 0;
  let start = 0;
  for (const { mark, at } of marksOf(text)) {
    if (mark === "(" || mark === "[") {
      depth += 1;
      if (depth === 1) start = at + 1;
    }
    if ((mark === "," && depth === 1) || (mark === ")" && depth === 1)) {
      const isFirst = items.length === 0;
      items.push({ start, end: at, before: isFirst ? start : start - 1, isFirst });
      start = at + 1;
      if (mark === ")") return items;
    }
    if (mark === ")" || mark === "]") depth -= 1;
  }
  return items;
}

/** The positions at which the clauses of a column begin. */
function clausesOf(column: string): number[] {
  const starts: number[] = [];
  let depth = 0;
  for (const { mark, at } of marksOf(column)) {
    if (mark === "(" || mark === "[") depth += 1;
    else if (mark === ")" || mark === "]") depth -= 1;
    else if (
      depth === 0 &&
      /^(default|generated|constraint|check|collate|not|null|unique|primary|references)$/i.test(mark)
    ) {
      // NOT NULL is one clause, and so is a constraint with its name.
      if (!/\b(not|constraint\s+("[^"]*"|\S+)|is)\s+$/i.test(column.slice(0, at))) starts.push(at);
    }
  }
  return starts;
}

function* marksOf(text: string): Generator<{ mark: string; at: number }> {
  const tokens =
    /'(?:[^']|'')*'|"(?:[^"]|"")*"|\$(\w*)\$[\s\S]*?\$\1\$|--[^\n]*|\/\*[\s\S]*?\*\/|[()[\],]|[A-Za-z_]\w*/g;
  for (const found of text.matchAll(tokens)) yield { mark: found[0], at: found.index };
}
