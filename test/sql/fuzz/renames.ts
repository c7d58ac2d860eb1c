import type { Random } from "../../support/fuzzing.ts";

/** A column, as an oracle sees it: it is the same whatever it is called. */
export interface Column {
  id: number;
  name: string;
  type: string;
}

/** What a workflow depends on: a column, by the name that it had when the workflow was last settled. */
interface Item {
  name: string;
  type: string;
  column: Column | undefined;
}

/** What is published: places among the items. */
interface Contract {
  items: Item[];
  payload: { key: string; item: Item }[];
  watch: Item | undefined;
  condition: Item | undefined;
  isRenameRefused: boolean;
}

export interface Model {
  columns: Column[];
  contract: Contract;
  lastId: number;
}

const names = ["a", "b", "c", "d", "e", "Old", "it's", "a.b", "x') ; select 1 --", "new", 'so "called"', "ü"];
const types = ["varchar(9)", "varchar(30)", "text", "int2", "int4", "int8"];

/** Types whose values look the same in an event. */
const look = (type: string) => (type === "int8" ? "string of digits" : type.startsWith("int") ? "number" : "string");
const base = (type: string) => (look(type) === "string" ? "text" : type);

export const quoted = (name: string) => `"${name.replaceAll('"', '""')}"`;
const literal = (text: string) => `'${text.replaceAll("'", "''")}'`;

/** A table, a workflow, and the statements that make them. */
export function randomScene(
  random: Random,
  { table, workflow, guard }: Record<"table" | "workflow" | "guard", string>,
) {
  const columns = distinct(random, names, 5).map((name, id) => ({ id, name, type: random.pick(types) }));
  const items = columns.map((column) => ({ name: column.name, type: column.type, column }));
  const [first, second, third] = distinct(random, items, 3) as [Item, Item, Item];
  const strings = items.filter(({ type }) => look(type) === "string");
  const payload = [first, second].map((item) => ({ key: item.name, item }));
  const watch = random.chance(0.5) ? random.pick([first, third]) : undefined;
  const condition = strings.length > 0 && random.chance(0.7) ? random.pick(strings) : undefined;
  const contract: Contract = {
    items: [...new Set([first, second, ...(watch ? [watch] : []), ...(condition ? [condition] : [])])],
    payload,
    watch,
    condition,
    isRenameRefused: random.chance(0.3),
  };
  // With such a column (new) would be that.
  const row = random.pick(["new", '"new"', "NEW", ...(columns.some(({ name }) => name === "new") ? [] : ["(new)"])]);
  const script = `
    create table ${table} (k int, ${columns.map(({ name, type }) => `${quoted(name)} ${type}`).join(", ")});
    select notika.publish(${literal(workflow)}, ${literal(table)}, '{insert,update}',
      array[${payload.map(({ key }) => literal(key)).join(", ")}],
      watch => ${watch ? `array[${literal(watch.name)}]` : "null"},
      condition => ${condition ? literal(`${row} . ${quoted(condition.name)} is distinct from 'no' and 'new.a' <> ''''`) : "null"},
      guard => '${guard}', on_rename => '${contract.isRenameRefused ? "block" : "follow"}');`;
  return { model: { columns, contract, lastId: columns.length } satisfies Model, script };
}

/** A few statements of a migration, applied to the model one by one, each followed by `after`. */
export function* randomMigration(random: Random, model: Model, table: string): Generator<string> {
  const count = 1 + random.below(4);
  for (let step = 0; step < count; step++) {
    const unused = names.filter((name) => model.columns.every((column) => column.name !== name));
    const column = model.columns.length > 0 ? random.pick(model.columns) : undefined;
    const alter = (text: string) => `alter table ${table} ${text}`;
    const rename = (from: Column, to: string) => {
      const statement = alter(`rename column ${quoted(from.name)} to ${quoted(to)}`);
      from.name = to;
      return statement;
    };

    switch (column ? random.below(7) : 0) {
      case 0:
      case 1: {
        // Often a name that a workflow knows.
        const known = model.contract.items.map(({ name }) => name).filter((name) => unused.includes(name));
        const name = known.length > 0 && random.chance(0.7) ? random.pick(known) : random.pick(unused);
        const old = model.contract.items.find((item) => item.name === name);
        const type = old && random.chance(0.7) ? old.type : random.pick(types);
        model.columns.push({ id: model.lastId++, name, type });
        yield alter(`add column ${quoted(name)} ${type}`);
        break;
      }
      case 2:
      case 3:
        if (column) yield rename(column, random.pick(unused));
        break;
      case 4: {
        const other = random.pick(model.columns);
        if (!column || other === column) break;
        const [one, two] = [column.name, other.name];
        yield rename(column, "passing");
        yield rename(other, one);
        yield rename(column, two);
        break;
      }
      case 5:
        if (!column) break;
        column.type = random.pick(types);
        yield alter(`alter column ${quoted(column.name)} type ${column.type} using null`);
        break;
      default:
        if (!column) break;
        model.columns = model.columns.filter((it) => it !== column);
        yield alter(`drop column ${quoted(column.name)}`);
    }
  }
}

/** After a statement: a column that is gone is replaced by one that has its name, unless that is another's. */
export function bind({ columns, contract: { items } }: Model): void {
  for (const item of items) if (item.column && !columns.includes(item.column)) item.column = undefined;
  for (const item of items) {
    item.column ??= columns.find(
      (column) => column.name === item.name && items.every((other) => other.column !== column),
    );
  }
}

/** Whether the guard has to refuse what a transaction leaves. */
export function isRefused({ contract: { items, condition, isRenameRefused } }: Model): boolean {
  return items.some(
    (item) =>
      !item.column ||
      (look(item.column.type) !== look(item.type) &&
        !(look(item.type) === "string of digits" && look(item.column.type) === "string")) ||
      (item === condition && base(item.column.type) !== base(item.type)) ||
      (isRenameRefused && item.column.name !== item.name),
  );
}

/** What is published from then on. */
export function settle({ contract: { items } }: Model): void {
  for (const item of items) {
    if (!item.column) continue;
    item.name = item.column.name;
    item.type = item.column.type;
  }
}

/** A row in which each value tells its column; `passes`: whether the condition is true of it. */
export function rowOf({ columns, contract: { condition } }: Model, passes: boolean): Record<string, unknown> {
  return Object.fromEntries(
    columns.map((column) => [
      column.name,
      !passes && column === condition?.column ? "no" : look(column.type) === "string" ? `v${column.id}` : column.id,
    ]),
  );
}

/** What an event of such a row carries. */
export function eventOf({ contract: { payload } }: Model, row: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    payload.flatMap(({ key, item }) => {
      if (!item.column) return [];
      const value = row[item.column.name];
      return [[key, look(item.column.type) === "string of digits" ? String(value) : value]];
    }),
  );
}

export const insert = (table: string, row: Record<string, unknown>) =>
  `insert into ${table} (${["k", ...Object.keys(row).map(quoted)].join(", ")})
   values (${[1, ...Object.values(row).map((value) => literal(String(value)))].join(", ")})`;

export const copyOf = (model: Model): Model => structuredClone(model); // one graph: columns stay shared

function distinct<T>(random: Random, from: readonly T[], count: number): T[] {
  const left = [...from];
  return Array.from({ length: Math.min(count, left.length) }, () => left.splice(random.below(left.length), 1)[0] as T);
}
