/** What JSON makes of a value, and so what is there when it is read again. */
export type Kept<T> = T extends { toJSON(): infer Json }
  ? Kept<Json>
  : T extends string | number | boolean | null
    ? T
    : T extends undefined | symbol | ((...given: never[]) => unknown)
      ? null
      : T extends object
        ? { [Key in keyof T]: Kept<T[Key]> }
        : T;

/** JSON that Postgres takes as text: it keeps no NUL. */
export function toJson(value: unknown): string {
  return JSON.stringify(value).replaceAll(/(?<!\\)((?:\\\\)*)\\u0000/g, "$1");
}
