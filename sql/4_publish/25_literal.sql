-- The text of a condition: its strings, casts and operators, as Postgres reads them.

create or replace function notika._unsafe_literal(tree text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  -- Base types belong to a superuser, and so do their input functions.
  select format_type(t.oid, null)
    from (
      select distinct m[1]::oid as type
        from regexp_matches(_unsafe_literal.tree, ':consttype (\d+)', 'g') as m
    ) as c
   cross join lateral notika._type_parts(c.type) as p (oid)
    join pg_type as t on t.oid = p.oid and t.typtype in ('d', 'c', 'r', 'm')
   where not notika._is_trusted('pg_type'::regclass, t.oid, t.typowner)
   order by 1
   limit 1;
$$;

comment on function notika._unsafe_literal(text) is
  'The type by which a string in a condition, given as its tree, would execute code of the '
  'type''s owner when it is parsed; null if there is none.';

create or replace function notika._without_literals(condition text, are_text boolean default false)
  returns text
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  -- Words before a string that are not the name of its type.
  v_words constant text[] := '{and,or,not,is,like,ilike,in,between,symmetric,asymmetric,then,else,when,
    case,from,to,escape,for,distinct,placing,both,leading,trailing,zone,of,on,as,using,passing,default,
    any,all,some,array,document,content,version,variadic,value,key}'::text[];
  v_name constant text := $re$(?:"(?:[^"]|"")+"|[[:alpha:]_][\w$]*)$re$;
  v_token text[];
  v_type text;
  v_fields text;
  v_rest text := condition;
  v_done text := '';
begin
  loop
    -- Up to the next string; one that continues on a new line is one string.
    v_token := regexp_match(v_rest,
      $re$^((?:[^'"]|"(?:[^"]|"")*")*)('(?:[^']|'')*'(?:\s*\n\s*'(?:[^']|'')*')*)(.*)$$re$);
    exit when v_token is null;
    v_done := v_done || v_token[1];
    v_rest := v_token[3];
    -- Bit strings and the field of extract() have no type to choose.
    if v_done ~* '(^|[^\w$"])[bx]$' or v_done ~* '(^|[^\w$."])extract\s*\(\s*$' then
      v_done := v_done || v_token[2];
      continue;
    end if;

    -- date '2026-01-01' is a cast.
    v_type := coalesce(
      substring(v_done from '(?i)(?:^|[^\w$".])((?:timestamp|time)\s*(?:\(\s*\d+\s*\))?\s+with(?:out)?\s+time\s+zone)\s*$'),
      substring(v_done from '(?i)(?:^|[^\w$".])(double\s+precision|(?:character|char|bit)\s+varying\s*(?:\(\s*\d+\s*\))?)\s*$'),
      substring(v_done from
        '(?:^|[^\w$".])(' || v_name || '(?:\s*\.\s*' || v_name || ')*\s*(?:\(\s*\d+\s*(?:,\s*\d+\s*)?\))?)\s*$')
    );
    if v_type is null or lower(btrim(v_type, E' \t\r\n')) = any (v_words) then
      v_done := v_done || case when are_text then v_token[2] || '::text' else 'null::unknown' end;
      continue;
    end if;
    v_type := rtrim(v_type, E' \t\r\n');
    v_done := left(rtrim(v_done, E' \t\r\n'), -length(v_type));
    v_fields := case when v_type ~* '^interval' then substring(v_rest from
      '(?i)^\s*(?:year|month|day|hour|minute|second)\M(?:\s*\(\s*\d\s*\))?(?:\s+to\s+(?:month|hour|minute|second)\M(?:\s*\(\s*\d\s*\))?)?') end;
    v_rest := substr(v_rest, 1 + coalesce(length(v_fields), 0));
    v_done := v_done || format('cast(%s as %s%s)', case when are_text then v_token[2] || '::text'
                                                   else 'null::unknown' end, v_type, v_fields);
  end loop;
  return v_done || v_rest;
end;
$body$;

comment on function notika._without_literals(text, boolean) is
  'A condition with null::unknown in place of each string, or with each string as text.';

create or replace function notika._names_others(condition text)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  -- A name without a schema is Postgres' own. An attribute may have another type when it is
  -- evaluated.
  select exists (
    select from regexp_matches(
        regexp_replace(_names_others.condition, $re$("(?:[^"]|"")*")|'(?:[^']|'')*'$re$, '\1', 'g'),
        '(?:^|[^\w$".])([[:alpha:]_][\w$]*|"(?:[^"]|"")*")\s*\.|(\))\s*\.', 'g') as m
     where m[2] is not null or lower(m[1]) not in ('new', 'old', 'pg_catalog')
  );
$$;

comment on function notika._names_others(text) is
  'Whether a condition names a type, function or operator with its schema, or an attribute of a '
  'value.';

create or replace function notika._with_text(condition_sql text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  select string_agg(case
           when t.token[1] like '''%' and t.follows ~ '^::(?:[[:alpha:]_][\w$]*|"(?:[^"]|"")*")\.'
             then format('(%s::text)', t.token[1])
           else t.token[1] end, '' order by t.place)
    from (
      select m.token, m.place, lead(m.token[1]) over (order by m.place)
             || coalesce(lead(m.token[1], 2) over (order by m.place), '')
             || coalesce(lead(m.token[1], 3) over (order by m.place), '') as follows
        from regexp_matches(_with_text.condition_sql, $re$'(?:[^']|'')*'|"(?:[^"]|"")*"|[^'"]+$re$, 'g')
               with ordinality as m (token, place)
    ) as t;
$$;

comment on function notika._with_text(text) is
  'A condition as Postgres prints it, in which strings of types that are not Postgres'' own are '
  'text first: parsing it executes none of their input functions.';

create or replace function notika._without_casts(condition_sql text, types text[])
  returns text
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_token text;
  v_strings text[] := array[]::text[];
  v_done text := '';
  v_type text;
  v_list text;
begin
  -- Each string is replaced by a number meanwhile, so that nothing in a string is taken for code.
  for v_token in
    select m[1]
      from regexp_matches(_without_casts.condition_sql, $re$'(?:[^']|'')*'|"(?:[^"]|"")*"|[^'"]+$re$, 'g') as m
  loop
    if v_token like '''%' then
      v_strings := v_strings || v_token;
      v_token := format('''%s''', cardinality(v_strings));
    elsif v_token like '"%''%' then
      return _without_casts.condition_sql;
    end if;
    v_done := v_done || v_token;
  end loop;

  foreach v_type in array _without_casts.types loop
    v_type := '::' || regexp_replace(v_type, '([^\w\s])', '\\\1', 'g') || '(?![\w$."])';
    -- A list of them is an array of text without its types.
    loop
      v_list := substring(v_done from 'ARRAY\[(''\d+''' || v_type || '(?:, ''\d+''' || v_type || ')*)\]');
      exit when v_list is null;
      v_strings := v_strings || quote_literal(array(
        select replace(substr(s.string, 2, length(s.string) - 2), '''''', '''')
          from regexp_matches(v_list, '''(\d+)''', 'g') with ordinality as m (place, nth)
         cross join lateral (select v_strings[m.place[1]::integer] as string) as s
         order by m.nth
      )::text);
      v_done := replace(v_done, format('ARRAY[%s]', v_list), format('''%s''', cardinality(v_strings)));
    end loop;
    v_done := regexp_replace(v_done, '(''\d+'')' || v_type || '(?:\[\])?', '\1', 'g');
  end loop;

  return (
    select string_agg(case when m.token[1] like '''%'
                           then v_strings[btrim(m.token[1], '''')::integer]
                           else m.token[1] end, '' order by m.place)
      from regexp_matches(v_done, $re$'\d+'|[^']+$re$, 'g') with ordinality as m (token, place)
  );
end;
$$;

comment on function notika._without_casts(text, text[]) is
  'A condition as Postgres prints it, in which strings of these types have no type: they get that '
  'of the column with which they are compared.';

create or replace function notika._condition_code(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
as $$
declare
  v_text constant text := notika._with_text(spec.condition_sql);
  v_bare text;
begin
  if v_text is not distinct from spec.condition_sql then
    return v_text;
  end if;
  -- A string without a type is read as the type of its column, which no name changes. This
  -- requires a column whose type was checked, and a lock, so that it stays so. The string becomes
  -- a constant then, and remains one when its label is renamed.
  if notika._names_others(spec.condition)
     or not exists (
       select from pg_locks as l
        where l.locktype = 'relation' and l.pid = pg_backend_pid() and l.granted
          and l.database = (select d.oid from pg_database as d where d.datname = current_database())
          and l.relation = spec.relation
     )
     or exists (
       select from pg_attribute as a
         join pg_type as y on y.oid = a.atttypid
        where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped
          and greatest(y.oid, y.typelem) >= 16384
          and spec.condition_sql ~ format('\.%s(?![\w$"])', regexp_replace(
            quote_ident(a.attname), '([^\w\s])', '\\\1', 'g'))
          and not exists (
            select from jsonb_to_recordset(spec.condition_uses) as u (kind text, oid oid)
             where u.kind = 'type' and u.oid in (y.oid, y.typelem)
          )
     )
  then
    return v_text;
  end if;
  v_bare := notika._without_casts(spec.condition_sql, array(
    select u.name
      from jsonb_to_recordset(spec.condition_uses) as u (kind text, oid oid, name text)
      join pg_type as t on u.kind = 'type' and t.oid = u.oid and t.typtype = 'e'
     where u.name is not null
  ));
  return case when notika._names_others(v_bare) then v_text else v_bare end;
end;
$$;

comment on function notika._condition_code(notika.workflow) is
  'The condition of a workflow in the form in which Notika''s owner lets Postgres parse it: no '
  'string in it has a type that is found by its name.';

create or replace function notika._operators_in(tree text)
  returns oid[]
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  select array_agg(distinct o.oid::oid order by o.oid::oid)
    from regexp_matches(_operators_in.tree, ':(?:opno|opnos \(o) ([\d ]*\d)', 'g') as m
   cross join regexp_split_to_table(btrim(m[1]), ' +') as o (oid);
$$;

comment on function notika._operators_in(text) is 'The operators in a parsed condition.';
