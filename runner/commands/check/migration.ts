import { readScript, type Statement } from "../../embedded/psql_script.ts";

/** A file with a migration, as `check_ddl` expects it, and where it is committed. */
export interface Migration {
  file: string;
  /** The SQL, with the same lines as the file. */
  sql: string;
  statements: Statement[];
  /** The lines at which it commits, or the reason that each statement is committed; empty: it may be one transaction. */
  commits: { line: number; reason: string }[];
  /** Whether its own text makes it one transaction, or it has at most one statement. */
  isWhole: boolean;
}

export function readMigration(file: string, text: string): Migration {
  const { statements, sql } = readScript(onlyUp(text));
  const work = statements.filter(({ bare }) => isWork(bare));
  const { commits, outside } = blocksOf(statements);
  const alone = markerOf(text) ?? outside.map(whyAlone).find((reason) => reason !== undefined);
  const commitsEach = alone !== undefined && work.length > 1;
  return {
    file,
    sql: commitsEach ? readScript(onlyUp(text), { commitsEach }).sql : sql,
    statements: work,
    commits: commitsEach ? [alone, ...commits] : commits,
    isWhole: work.length < 2 || (commits.length === 0 && outside.length === 0),
  };
}

/** Where statements commit, and the statements outside of transaction blocks. */
function blocksOf(statements: Statement[]): { commits: Migration["commits"]; outside: Statement[] } {
  const commits: Migration["commits"] = [];
  const outside: Statement[] = [];
  let isInBlock = false;
  let isOpen = false; // something has been done since the last commit
  for (const [index, { line, bare }] of statements.entries()) {
    const commit = (reason: Reason) => {
      const goesOn = statements.slice(index).some((next) => isWork(next.bare));
      if (isOpen && goesOn) commits.push({ line, reason });
      isOpen = false;
    };
    if (begins.test(bare)) {
      if (!isInBlock) commit("BEGIN");
      isInBlock = true;
    } else if (ends.test(bare)) {
      commit("COMMIT");
      isInBlock = false;
    } else if (isWork(bare)) {
      isOpen = true;
      if (!isInBlock) outside.push(statements[index] as Statement);
    }
  }
  return { commits, outside };
}

type Reason = "BEGIN" | "COMMIT";

const begins = /^(begin|start transaction)\b/i;
const ends = /^(commit|end|rollback|abort)\b(?!.* to )/i;
const cannotBeInTransaction =
  /^(create|drop|reindex|alter)\b.*\bconcurrently\b|^(vacuum|alter system|reindex (\([^)]*\) )?(database|system)|(create|drop|alter) (database|tablespace|subscription))\b/i;

function isTransactionControl(bare: string): boolean {
  return begins.test(bare) || ends.test(bare);
}

/** Whether a statement changes more than its own session. */
function isWork(bare: string): boolean {
  return !isTransactionControl(bare) && !/^(set|reset|show|select (pg_catalog\.)?set_config)\b/i.test(bare);
}

/** Why a statement cannot run in a transaction; undefined: it can. */
function whyAlone({ line, bare }: Statement): { line: number; reason: string } | undefined {
  if (!cannotBeInTransaction.test(bare)) return undefined;
  const first = bare.split(" ").slice(0, 2).join(" ").toUpperCase();
  return { line, reason: /\bconcurrently\b/i.test(bare) ? "CONCURRENTLY" : first };
}

/** The comment that makes a migration tool commit each statement; undefined: there is none. */
function markerOf(text: string): { line: number; reason: string } | undefined {
  const found =
    /^\s*--+\s*(\+goose no transaction|migrate:up\b.*\btransaction:false|!\s*no-transaction|no-transaction|atlas:txmode none|disable-transaction|\+migrate up\b.*\bnotransaction)\b.*$/im.exec(
      text,
    );
  return found ? { line: text.slice(0, found.index).split("\n").length, reason: found[0].trim() } : undefined;
}

/** The text without the down migration, which some tools keep in the same file. */
function onlyUp(text: string): string {
  if (!/^--\s*(migrate:|\+(goose|migrate) )/im.test(text)) return text;
  let isUp = true;
  return text
    .split("\n")
    .map((line) => {
      const mark = /^--\s*(?:migrate:|\+(?:goose|migrate) )(up|down)\b/i.exec(line)?.[1];
      if (mark) isUp = /^up$/i.test(mark);
      return isUp ? line : "";
    })
    .join("\n");
}

/** A line for each file that is not one transaction. */
export function notWhole(migrations: Migration[]): string {
  return migrations
    .filter(({ commits }) => commits.length > 0)
    .map(({ file, commits: [first] }) => `${file} is not one transaction (${first?.reason} in line ${first?.line})\n`)
    .join("");
}

/** Describes the changes of a file that stay after a refusal in a line; undefined: none. */
export function whatStays({ file, statements, commits, isWhole }: Migration, line: number): string | undefined {
  const before = statements.filter((statement) => statement.line < line);
  const [first, last] = [before[0], before.at(-1)];
  if (isWhole || !first || !last) return undefined;
  const each = commits.find(({ reason }) => reason !== "COMMIT" && reason !== "BEGIN");
  const inner = commits.findLast((commit) => commit.line <= line);
  if (!each && commits.length > 0 && !inner) return undefined;
  const until = each || !inner ? last : statements.findLast((statement) => statement.line <= inner.line);
  if (!until) return undefined;
  const lines = first.line === until.line ? `line ${first.line}` : `lines ${first.line} to ${until.line}`;
  const stays = `the changes of ${lines} stay after the refusal, and a second attempt begins with them.`;
  const maintenance =
    "begin maintenance before the migration: select notika.begin_maintenance('<reason>'); " +
    "and end it afterwards: select * from notika.end_maintenance();";
  const commit = each ?? inner;
  return commit
    ? `${file} is not one transaction (${commit.reason} in line ${commit.line}): ${stays} Make it one, or ${maintenance}`
    : `Unless ${file} is run in one transaction, ${stays} For a tool that commits each statement, ${maintenance}`;
}
