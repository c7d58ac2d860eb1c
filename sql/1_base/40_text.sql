-- Helpers for text: dollar quoting, indentation, lists of names, and the values of an event.

create or replace function notika._dollar_quoted(body text, tag text)
  returns text
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- A name or string in the body may contain the tag.
  while strpos(body, '$' || tag) > 0 loop
    tag := tag || '_';
  end loop;
  return format('$%s$%s$%s$', tag, body, tag);
end;
$$;

comment on function notika._dollar_quoted(text, text) is
  'The body of a function as a literal, quoted with this tag, or a longer one if the body contains '
  'the tag.';

create or replace function notika._values(event json, columns jsonb)
  returns jsonb
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_event json := _values.event;
  v_row json;
begin
  -- A json value may hold escapes that the operators of json refuse: \u0000, or a single surrogate.
  if strpos(v_event::text, '\u') > 0 then
    v_event := regexp_replace(v_event::text, '(?<!\\)((?:\\\\)*)\\u', '\1\\\\u', 'g')::json;
  end if;
  v_row := v_event -> 'new';
  if coalesce(json_typeof(v_row), 'null') = 'null' then
    v_row := v_event -> 'old'; -- a delete, also when it is replayed
  end if;
  return coalesce(
    (select jsonb_agg(v_row ->> c.name order by c.place)
       from jsonb_array_elements_text(_values.columns) with ordinality as c (name, place)),
    '[]'
  );
end;
$$;

comment on function notika._values(json, jsonb) is
  'The values of these columns in an event, as text; null for a column that the event lacks.';

create or replace function notika._index_key(key jsonb)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when octet_length(key::text) <= 500 then key::text
    else left(key::text, 50) || '... ' || encode(sha256(convert_to(key::text, 'UTF8')), 'hex')
  end;
$$;

comment on function notika._index_key(jsonb) is
  'A json value as text that fits into an index entry. Different values give different texts.';

create or replace function notika._text_array(items json)
  returns text[]
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select array_agg(i.item order by i.place)
    from json_array_elements_text(
           case json_typeof(_text_array.items) when 'array' then _text_array.items end
         ) with ordinality as i (item, place);
$$;

comment on function notika._text_array(json) is
  'A json array of strings as text[]; null: the argument is empty or not an array.';

create or replace function notika._indented(code text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  select replace(_indented.code, E'\n', E'\n  ');
$$;

comment on function notika._indented(text) is
  'The code with all lines but the first indented by two more columns.';

create or replace function notika._names(list text)
  returns setof text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
  select (parse_ident(m[1]))[1]
    from regexp_matches(_names.list, $re$("(?:[^"]|"")+"|[[:alpha:]_][\w$]*)$re$, 'g') as m;
$body$;

comment on function notika._names(text) is
  'The identifiers in a list, without quotes and in the case in which Postgres reads them.';
