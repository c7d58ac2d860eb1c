/** The type of a value after it was written as JSON and read again. */
export type Kept<T> = T extends { toJSON(): infer Json }
  ? Kept<Json>
  : T extends string | number | boolean | null
    ? T
    : T extends undefined | symbol | ((...given: never[]) => unknown)
      ? null
      : T extends object
        ? { [Key in keyof T]: Kept<T[Key]> }
        : T;

/** JSON without NUL characters, which Postgres cannot store. */
export function toJson(value: unknown): string {
  return JSON.stringify(value).replaceAll(/(?<!\\)((?:\\\\)*)\\u0000/g, "$1");
}
