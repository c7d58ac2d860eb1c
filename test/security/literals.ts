import { isSince } from "./scene.ts";

/** Conditions whose literals are of types with a check of somebody's in them, all of the types in schema `s`. */
export const literals = (s: string) => [
  `'{1}'::${s}.d[] is not null`,
  `'{{1},{2}}'::${s}.d[][] is not null`,
  `'{1}'::${s}.dd[] is not null`,
  `cast('{1}' as ${s}.d[]) is not null`,
  `CAST ( /* cast */ E'{\\x31}' AS "${s}" . "d" [] ) is not null`,
  `U&'{\\0031}' :: ${s}.d array is not null`,
  `$x$ {1} $x$::${s}.d[] is not null`,
  `'(1)'::${s}.c is not null`,
  `'("(1)",)'::${s}.cc is not null`,
  `'{"(1)"}'::${s}.c[] is not null`,
  `(null, '{"(1)"}')::${s}.cc is not null`,
  `'[a,b]'::${s}.r is not null`,
  `'{[a,b]}'::${s}.mr is not null`,
  `'{"[a,b]"}'::${s}.r[] is not null`,
  `'("[a,b]",)'::${s}.cr is not null`,
  `'{1}'::${s}.da is not null`,
  `'(,{1})'::${s}.cr is not null`,
  `'(1)'::${s}.dc is not null`,
  `'1'::${s}.d is not null`,
  `${s}.d '1' is not null`,
  `'1'::${s}.d = 'x'`,
  `array['1', '2']::${s}.d[] is not null`,
  `row('1')::${s}.c is not null`,
  `${s}.takes('{1}')`,
  `case when true then '{1}' else null::${s}.d[] end is not null`,
  `coalesce(null::${s}.d[], '{1}') is not null`,
  `coalesce(null::${s}.c, '(1)') is not null`,
  `(null::${s}.d[] = '{1}') is null`,
  `(${s}.r(null, null) @> 'x'::${s}.d) is not null`,
  `('{x}'::text[])::${s}.d[] is not null`,
  `array_append(null::${s}.d[], 'x') is not null`,
  `('1' in (null::${s}.d, 'x')) is not false`,
  `json_populate_record(null::${s}.c, '{"x": 1}') is not null`,
  `'x' operator(${s}.===) 'y'`,
  ...(isSince(16) && s !== "pg_temp" ? [`pg_input_is_valid('{1}', '${s}.d[]')`] : []),
  ...(isSince(17) ? [`json_value('"1"', '$' returning ${s}.d) is not null`] : []),
];

/** A table whose columns are of such types, and conditions that compare them with a literal that has none. */
export const tagged = (s: string) => `
  create table app.tagged (id bigint primary key, tags ${s}.d[], pair ${s}.c, span ${s}.r, spans ${s}.mr, deep ${s}.cc, list ${s}.da);
  grant insert on app.tagged to appwriter;
  grant select, trigger on app.tagged to pub;`;

export const untyped = [
  `new.tags = '{vip}'`,
  `new.tags is distinct from '{vip}'`,
  `new.tags in ('{vip}', '{x}')`,
  `new.tags between '{a}' and '{b}'`,
  `coalesce(new.tags, '{vip}') is not null`,
  `nullif(new.tags, '{vip}') is null`,
  `greatest(new.tags, '{vip}') is not null`,
  `case new.tags when '{vip}' then true else false end is not null`,
  `new.tags || '{vip}' is not null`,
  `new.tags && '{vip}' is not true`,
  `'{vip}' = new.tags`,
  `coalesce(new.pair, '(1)') is not null`,
  `array[new.pair, '(1)'] is not null`,
  `case when new.id > 0 then new.deep else '("(1)",)' end is null`,
  `new.span && '[a,b]' is not true`,
  `new.spans @> '{[a,b]}' is not true`,
  `new.list is distinct from '{vip}'`,
];
