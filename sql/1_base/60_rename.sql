-- Renames: the columns, watch and condition of a workflow under the current names of its columns.
-- A column is identified by its attnum, whatever names it has in a transaction.  A condition is
-- read token by token, so that a name with a quote or a dot in it is one name and a string is not a
-- name.

create or replace function notika._tokens(condition text)
  returns text[]
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
  -- A condition has no comments, dollar quotes or escapes: _read_condition refuses them.  Postgres
  -- prints no escapes except E'', and doubles the quotes in it as well.
  select array(
    select m.token[1]
      from regexp_matches(
             _tokens.condition,
             $re$'(?:[^']|'')*'|"(?:[^"]|"")*"|[^\x01-@\[-^`{-\x7f][^\x01-#%-/:-@\[-^`{-\x7f]*|\s+|.$re$,
             'g') with ordinality as m (token, place)
     order by m.place
  );
$body$;

comment on function notika._tokens(text) is
  'The tokens of a condition: strings, names with or without quotes, symbols and spaces.';

create or replace function notika._name_in(token text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
  -- As Postgres reads it: truncated, and with ASCII letters in lower case.
  select case
           when token like '"%"' then replace(substr(token, 2, length(token) - 2), '""', '"')::name::text
           when token ~ '^[^\x01-@\[-^`{-\x7f]'
             then translate(token, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', 'abcdefghijklmnopqrstuvwxyz')::name::text
         end;
$body$;

comment on function notika._name_in(text) is
  'The name that a token of a condition stands for; null: the token is not a name.';

create or replace function notika._columns_in(tokens text[])
  returns table (place integer, column_name text)
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  v_token text;
  v_name text;
  v_last text;
  v_opened integer := 0; -- parentheses directly before new or old, as in (new).email
  v_follows text; -- what may follow: a dot, or the name of a column
begin
  for v_place in 1 .. coalesce(cardinality(tokens), 0) loop
    v_token := tokens[v_place];
    continue when v_token ~ '^\s';
    v_name := notika._name_in(v_token);
    if v_follows = 'column' and v_name is not null then
      place := v_place;
      column_name := v_name;
      return next;
      v_follows := null;
    elsif v_follows = 'dot' and v_token = ')' and v_opened > 0 then
      v_opened := v_opened - 1;
    elsif v_follows = 'dot' and v_token = '.' then
      v_follows := 'column';
    elsif v_name in ('new', 'old') and v_last is distinct from '.' then
      v_follows := 'dot';
    else
      v_follows := null;
    end if;
    if v_follows is null then
      v_opened := case when v_token = '(' then v_opened + 1 else 0 end;
    end if;
    v_last := v_token;
  end loop;
end;
$body$;

comment on function notika._columns_in(text[]) is
  'The columns of new and old in a condition, with the places of their tokens.';

create or replace function notika._reads(condition text, column_name text default null)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from notika._columns_in(notika._tokens(_reads.condition)) as c
     where _reads.column_name is null or c.column_name = _reads.column_name
  );
$$;

comment on function notika._reads(text, text) is
  'Whether a condition refers to this column of new or old; with null, to any column.';

create or replace function notika._rename_in(condition text, old_names text[], new_names text[])
  returns text
  language plpgsql
  immutable
  strict
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_tokens text[] := notika._tokens(condition);
  v_place integer;
  v_name text;
begin
  for v_place, v_name in
    select c.place, c.column_name
      from notika._columns_in(v_tokens) as c
     where c.column_name = any (old_names)
  loop
    v_tokens[v_place] := quote_ident(new_names[array_position(old_names, v_name)]);
  end loop;
  return array_to_string(v_tokens, '');
end;
$$;

comment on function notika._rename_in(text, text[], text[]) is
  'A condition with renamed columns. All renames are made at once, because names may be swapped '
  'between columns.';

create or replace function notika._renamed(names text[], old_names text[], new_names text[])
  returns text[]
  language sql
  immutable
  strict
  set search_path = pg_catalog, pg_temp
as $$
  select array(
    select coalesce(new_names[array_position(old_names, n.name)], n.name)
      from unnest(names) with ordinality as n (name, place)
     order by n.place
  );
$$;

comment on function notika._renamed(text[], text[], text[]) is
  'A list of column names in which the old names are replaced by the new ones.';

create or replace function notika._renamed_columns(spec notika.workflow)
  returns table (old_name text, new_name text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select c.column_name, a.attname::text
      from notika.contract as c
      join pg_attribute as a on a.attrelid = spec.relation and a.attnum = c.attnum
     where c.workflow_id = spec.workflow_id and not a.attisdropped and a.attname <> c.column_name
     order by c.column_name;
end;
$$;

comment on function notika._renamed_columns(notika.workflow) is
  'The columns of a workflow''s contract that have been renamed since, with both names.';

create or replace function notika._with_columns(spec notika.workflow)
  returns notika.workflow
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow := _with_columns.spec;
  v_old text[];
  v_new text[];
begin
  select array_agg(r.old_name), array_agg(r.new_name) into v_old, v_new
    from notika._renamed_columns(_with_columns.spec) as r;
  if v_old is not null then
    v_spec.column_names := notika._renamed(spec.column_names, v_old, v_new);
    v_spec.watch := notika._renamed(spec.watch, v_old, v_new);
    v_spec.condition := notika._rename_in(spec.condition, v_old, v_new);
    v_spec.condition_sql := notika._rename_in(spec.condition_sql, v_old, v_new);
  end if;
  return v_spec;
end;
$$;

comment on function notika._with_columns(notika.workflow) is
  'A workflow whose columns, watch and condition use the current names of its columns.';
