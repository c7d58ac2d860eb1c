-- Conditions: text of others that becomes part of a trigger and of a query of the owner's.
-- To parse a text is to execute some of it: a string takes the input function of the type that it
-- is compared with, which evaluates the checks of domains in arrays, composites and ranges.  So the
-- caller parses it, twice: first with null::unknown in the place of each string, which resolves to
-- the same tree and calls no input function; and with its strings only when no constant in that
-- tree is of a type that would.  What has a name of its own may be another by then: where there is
-- one in the condition, each string is a text that is converted when the condition is evaluated.
-- The owner takes the finished tree, keeps it as text with every name in full, and keeps what each
-- name meant: it parses that text only while the names mean the same, and compares what it got.

create or replace function notika._unsafe_literal(tree text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  -- Base types are a superuser's, and so are their input functions.
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
  'The type by which a string in a condition, which this is the tree of, would execute code of its '
  'owner when it is parsed; null: there is none.';

create or replace function notika._without_literals(condition text, are_text boolean default false)
  returns text
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  -- Words that a string may follow without being of a type of that name.
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
    -- Up to the next string; one that goes on after a new line is one string.
    v_token := regexp_match(v_rest,
      $re$^((?:[^'"]|"(?:[^"]|"")*")*)('(?:[^']|'')*'(?:\s*\n\s*'(?:[^']|'')*')*)(.*)$$re$);
    exit when v_token is null;
    v_done := v_done || v_token[1];
    v_rest := v_token[3];
    -- Bits and the field of extract() have no type to choose.
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
  'A condition with null::unknown in the place of each string, or with each string as a text.';

create or replace function notika._names_others(condition text)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  -- Without a schema there is only what is Postgres' own.  An attribute may be of another type by then.
  select exists (
    select from regexp_matches(
        regexp_replace(_names_others.condition, $re$("(?:[^"]|"")*")|'(?:[^']|'')*'$re$, '\1', 'g'),
        '(?:^|[^\w$".])([[:alpha:]_][\w$]*|"(?:[^"]|"")*")\s*\.|(\))\s*\.', 'g') as m
     where m[2] is not null or lower(m[1]) not in ('new', 'old', 'pg_catalog')
  );
$$;

comment on function notika._names_others(text) is
  'Whether a condition names a type, function or operator by its schema, or an attribute of a value.';

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
  'A condition as Postgres prints it, whose strings of types that are not its own are text first: to '
  'parse it executes no input function of theirs.';

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
  -- Each string is a number meanwhile, so that nothing in one is taken for code.
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
  'A condition as Postgres prints it, whose strings of these types say no type: that of the column they '
  'are compared with is theirs.';

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
  -- A string that says no type is read as its column's, which no name changes.  That takes a column
  -- whose type was looked at, and a lock, so that it stays so.  A constant it is then, and goes on
  -- being one when its label is renamed.
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
  'The condition of a workflow as Notika''s owner lets Postgres parse it: no string in it is of a type '
  'that is found by its name.';

create or replace function notika._hold_columns(spec notika.workflow)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
begin
  if spec.condition is not null then
    execute format('lock table only %s in access share mode', notika._quoted(spec.relation));
  end if;
exception when insufficient_privilege then
  null; -- nothing can be made on it, as is said then
end;
$$;

comment on function notika._hold_columns(notika.workflow) is
  'Keeps the columns that a condition is about as they are until the end of the transaction.';

create or replace function notika._refuse_condition(
  spec notika.workflow,
  problem text,
  code text,
  hint text default null,
  detail text default null
)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
begin
  raise exception 'condition of workflow "%" is not valid: %', spec.name,
      replace(replace(problem, 'argument of WHERE', 'it'), ' in WHERE', ' in a condition')
    using errcode = code,
          detail = concat_ws(E'\n', format('The condition is: %s', spec.condition), _refuse_condition.detail),
          hint = coalesce(nullif(_refuse_condition.hint, ''),
            case code
              when '42P01' then 'Columns are written new.<column> and old.<column>.'
              when '42703' then 'The columns of the table: ' || (
                select string_agg(a.attname, ', ' order by a.attnum)
                  from pg_attribute as a
                 where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped
              ) || '.'
              when '42501' then (
                select string_agg(format('Run: grant usage on schema %I to %I;', n.nspname,
                                         current_user), ' ' order by n.nspname)
                  from pg_namespace as n
                 where not has_schema_privilege(n.oid, 'usage')
                   and (strpos(spec.condition, n.nspname || '.') > 0
                        or strpos(spec.condition, quote_ident(n.nspname) || '.') > 0)
              )
              when '42702' then 'Write new.<column> or old.<column>.'
              when '42804' then 'Compare with something, as in: new.<column> = ''x''.'
            end,
            'Write one expression over new and old, for instance: new.<column> is not null.');
end;
$$;

comment on function notika._refuse_condition(notika.workflow, text, text, text, text) is
  'Says what is wrong with a condition, as an error.';

create or replace function notika._parse_condition(spec notika.workflow, condition text)
  returns text
  language plpgsql
  volatile
  security invoker -- whatever parsing executes, the caller does
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set client_min_messages = warning
as $$
declare
  v_state text;
  v_message text;
  v_hint text;
begin
  -- Postgres judges it as an expression over two rows.  What it refuses in a WHERE it refuses in a
  -- trigger's WHEN, which it refuses subqueries in too.
  begin
    execute format(
      'create or replace function pg_temp.notika_condition() returns boolean language sql '
      'begin atomic select true from %1$s as new, %1$s as old where (%2$s); end',
      notika._quoted(spec.relation), _parse_condition.condition);
  exception
    when lock_not_available or deadlock_detected or query_canceled then
      raise;
    when others then
      get stacked diagnostics
        v_state = returned_sqlstate, v_message = message_text, v_hint = pg_exception_hint;
      -- Which is said of the condition as it was given, where that is not it.
      perform notika._refuse_condition(spec, v_message, v_state, coalesce(nullif(v_hint, ''), case
        when v_state = '42601' and _parse_condition.condition <> spec.condition
          then 'A string that has its type in front of it is better written as a cast: ''...''::<type>.'
        when v_state in ('42883', '42725', '42804') and notika._names_others(spec.condition)
          then 'In a condition that names something by its schema a string is text: write the type of '
               'another after it, as in: ''...''::<type>.' end));
  end;
  return (
    select p.prosqlbody::text from pg_proc as p
     where p.oid = to_regprocedure('pg_temp.notika_condition()')
  );
end;
$$;

comment on function notika._parse_condition(notika.workflow, text) is
  'Lets Postgres parse a condition over two rows of a table, as the caller and into a temporary '
  'function, and returns its tree.';

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

create or replace function notika._read_condition(spec notika.workflow)
  returns regprocedure
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_bare text;
  v_depth integer := 0;
  v_sign text;
  v_problem text;
  v_corrected notika.workflow := _read_condition.spec;
  v_type text;
  v_tree text;
  v_state text;
  v_message text;
  v_detail text;
  v_hint text;
  v_context text;
begin
  -- What is left without strings and quoted names must not end the expression it stands in.
  v_bare := regexp_replace(spec.condition, $re$'(?:[^']|'')*'|"(?:[^"]|"")*"$re$, '''''', 'g');
  for v_sign in select m[1] from regexp_matches(v_bare, '[()]', 'g') as m loop
    v_depth := v_depth + case v_sign when '(' then 1 else -1 end;
    exit when v_depth < 0;
  end loop;

  v_problem := case
    when spec.condition !~ '\S' then 'it is empty'
    when v_depth <> 0 then 'its parentheses do not match'
    when replace(v_bare, '''''', '') ~ $re$['"]$re$ then 'a quote is not closed'
    when v_bare ~ ';' then 'it is more than one expression'
    when v_bare ~ '--|/\*' then 'it has a comment'
    when v_bare ~ '\$' then 'it has a dollar sign outside of quotes'
    -- A backslash in them may hide a quote.
    when v_bare ~* $re$(^|[^a-z0-9_])(e|n)'|u&'$re$ then 'it has a string with escapes'
  end;
  if v_problem is not null then
    v_corrected.condition := 'new.<column> is not null';
    raise exception 'condition of workflow "%" is not valid: %', spec.name, v_problem
      using errcode = 'syntax_error',
            detail = format('The condition is: %s', spec.condition),
            hint = 'Write one expression over new and old, for instance: '
                   || notika._call(v_corrected);
  end if;
  if not has_database_privilege(current_database(), 'temporary') then
    raise exception 'role "%" may not create temporary objects in database "%"', current_user,
      current_database()
      using errcode = 'insufficient_privilege',
            detail = 'A condition is read with the rights of its author, in a temporary function.',
            hint = format('Let the owner of the database run: grant temporary on database %I to %I;',
                          current_database(), current_user);
  end if;

  v_tree := notika._parse_condition(spec, notika._without_literals(spec.condition));
  v_type := notika._unsafe_literal(v_tree);
  if v_type is not null then
    perform notika._refuse_condition(spec,
      format('it compares a string with type %s, which would execute code of the owner of that type',
             v_type), '0A000',
      'Compare a part of the value, or its text, as in: format(''%s'', new.<column>) = ''...''.',
      'To read a string as a value of a domain in an array, of a composite or of a range evaluates '
      'checks, for Notika with the rights of its owner.');
  end if;
  if not notika._names_others(spec.condition) then
    perform notika._parse_condition(spec, spec.condition);
  elsif notika._operators_in(v_tree) is distinct from notika._operators_in(
          notika._parse_condition(spec, notika._without_literals(spec.condition, true)))
  then
    perform notika._refuse_condition(spec, 'a string in it would be of another type than text', '42804',
      'Write the type of each string after it, as in: ''...''::<type>.');
  end if;
  return to_regprocedure('pg_temp.notika_condition()');
exception when others then
  get stacked diagnostics
    v_state = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail,
    v_hint = pg_exception_hint, v_context = pg_exception_context;
  if notika._refuse_shortly(v_state, v_message, v_detail, v_hint, v_context) then
    return null;
  end if;
  raise;
end;
$$;

comment on function notika._read_condition(notika.workflow) is
  'Parses a condition as the caller into a temporary function, if nothing but Postgres'' own code and '
  'that of superusers is executed by it; an error says why it is not valid.';

create or replace function notika._meaning(kind text, object oid)
  returns table (name text, others text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
  -- By what else there is of that name, or converts to it, it could come to mean something else.
  select format_type(t.oid, null), (
           select string_agg(format('%s>%s:%s%s', c.castsource, c.casttarget, c.castfunc, c.castcontext), ' '
                             order by c.castsource, c.casttarget)
             from pg_cast as c
            where t.oid in (c.castsource, c.casttarget)
         )
    from pg_type as t
   where _meaning.kind = 'type' and t.oid = _meaning.object
  union all
  select format('%I.%I', n.nspname, p.proname), (
           select string_agg(o.oid::text, ' ' order by o.oid)
             from pg_proc as o
            where o.pronamespace = p.pronamespace and o.proname = p.proname and o.oid >= 16384
         )
    from pg_proc as p
    join pg_namespace as n on n.oid = p.pronamespace
   where _meaning.kind = 'function' and p.oid = _meaning.object
  union all
  select format('%I.%s', n.nspname, p.oprname), (
           select string_agg(o.oid::text, ' ' order by o.oid)
             from pg_operator as o
            where o.oprnamespace = p.oprnamespace and o.oprname = p.oprname and o.oid >= 16384
         )
    from pg_operator as p
    join pg_namespace as n on n.oid = p.oprnamespace
   where _meaning.kind = 'operator' and p.oid = _meaning.object;
$$;

comment on function notika._meaning(text, oid) is
  'The name of a type, function or operator, and what else there is by that name.';

create or replace function notika._uses(tree text)
  returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  with mention (kind, object, note) as (
    select 'function', m[1]::oid, null
      from regexp_matches(_uses.tree, ':(?:funcid|opfuncid|negfuncid) (\d+)', 'g') as m
    union
    select 'operator', m[1]::oid, null from regexp_matches(_uses.tree, ':opno (\d+)', 'g') as m
    union
    select 'operator', o::oid, null
      from regexp_matches(_uses.tree, ':opnos \(o ([\d ]+)\)', 'g') as m
     cross join regexp_split_to_table(btrim(m[1]), ' +') as o
    union
    -- Its input function is called: CoerceViaIO, CoerceToDomain.
    select 'type', m[1]::oid, 'input'
      from regexp_matches(_uses.tree, ':resulttype (\d+) :resultcollid \d+ :coerceformat', 'g') as m
    union
    select 'type', m[1]::oid, 'input'
      from regexp_matches(
             _uses.tree, ':resulttype (\d+) :resulttypmod -?\d+ :resultcollid \d+ :coercionformat', 'g') as m
    union
    select 'type', m[1]::oid, null
      from regexp_matches(_uses.tree,
             ':(?:consttype|resulttype|vartype|funcresulttype|opresulttype|array_typeid|element_typeid|'
             'row_typeid|coalescetype|casetype|minmaxtype|typeId|typid|type) (\d+)', 'g') as m
    union
    select 'node', 0, 'json' where _uses.tree ~ '[{]JSON'
    union
    select 'node', 0, 'row' where _uses.tree ~ ':varattno 0 '
  )
  select coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
           'kind', u.kind, 'oid', u.object, 'note', u.note, 'name', m.name, 'others', m.others,
           'signature', case u.kind
             when 'function' then pg_get_function_identity_arguments(u.object)
             when 'operator' then (
               select format('%s,%s', format_type(o.oprleft, null), format_type(o.oprright, null))
                 from pg_operator as o where o.oid = u.object) end))
           order by u.kind, u.object), '[]')
    from (
      select k.kind, k.object, max(k.note) as note
        from (
          select n.kind, coalesce(e.typelem, n.object) as object, n.note
            from mention as n
            left join pg_type as e
              on n.kind = 'type' and e.oid = n.object
             and e.typelem <> 0 and e.typsubscript = 'array_subscript_handler'::regproc
        ) as k
       group by k.kind, k.object, case when k.kind = 'node' then k.note end
    ) as u
    left join lateral notika._meaning(u.kind, u.object) as m on u.object >= 16384
   where u.kind = 'node' or u.object >= 16384 or u.kind <> 'type' and u.object <> 0;
$$;

comment on function notika._uses(text) is
  'What a condition with this tree uses: types, functions and operators, each with its number and, '
  'where it is not Postgres'' own, its name and what else there is by that name.';

create or replace function notika._lost_meaning(uses jsonb)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('%s %s', u.kind, u.name)
    from jsonb_to_recordset(_lost_meaning.uses) as u (kind text, oid oid, name text, others text)
    left join lateral notika._meaning(u.kind, u.oid) as m on true
   where u.name is not null
     and (m.name is distinct from u.name or m.others is distinct from u.others)
   order by 1
   limit 1;
$$;

comment on function notika._lost_meaning(jsonb) is
  'What a condition uses whose name may mean something else by now; null: all means the same.';

create or replace function notika._uses_by_name(uses jsonb)
  returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Of several functions or operators of a name the text of the condition would choose as it did.
  return (
    select jsonb_agg(case when u.use ? 'name' then u.use || coalesce((
             select jsonb_build_object('oid', o.oid, 'others', m.others)
               from (
                 select to_regtype(u.use ->> 'name')::oid as oid where u.use ->> 'kind' = 'type'
                 union all
                 (select p.oid
                    from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
                   where u.use ->> 'kind' = 'function' and format('%I.%I', n.nspname, p.proname) = u.use ->> 'name'
                     and pg_get_function_identity_arguments(p.oid) = u.use ->> 'signature'
                   limit 1)
                 union all
                 (select p.oid
                    from pg_operator as p join pg_namespace as n on n.oid = p.oprnamespace
                   where u.use ->> 'kind' = 'operator' and format('%I.%s', n.nspname, p.oprname) = u.use ->> 'name'
                     and format('%s,%s', format_type(p.oprleft, null), format_type(p.oprright, null))
                         = u.use ->> 'signature'
                   limit 1)
               ) as o
              cross join lateral notika._meaning(u.use ->> 'kind', o.oid) as m
           ), '{"oid": 0}') else u.use end order by u.place)
      from jsonb_array_elements(_uses_by_name.uses) with ordinality as u (use, place)
  );
end;
$$;

comment on function notika._uses_by_name(jsonb) is
  'What a condition uses, found by its names again: in a restored copy the numbers are others.';

create or replace function notika._takes_code(function pg_proc)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- The text of a query, the name of a table or type, or the number of one: the input function of a
  -- domain, and what looks at a partition key, execute what belongs to it.
  select (function).oid < 16384 and (
    (function).proname ~ '(_to_xml|_to_xmlschema|_to_xml_and_xmlschema)$|^pg_input_|^ts_(stat|rewrite)$'
    or (function).proname in ('satisfies_hash_partition', 'pg_get_partition_constraintdef')
    or array[(function).prorettype] || (function).proargtypes::oid[]
       && array['cstring', 'internal']::regtype[]::oid[]
  );
$$;

comment on function notika._takes_code(pg_proc) is
  'Whether a function of Postgres'' own executes what its arguments name.';

create or replace function notika._executed(uses jsonb, relation regclass)
  returns table (kind text, name text, class oid, object oid, owner oid, volatility "char", reads boolean)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with used as (
    select u.* from jsonb_to_recordset(_executed.uses) as u (kind text, oid oid, note text)
  ), operator (oid) as (
    select o
      from used as u
     cross join lateral notika._operators(u.oid) as o
     where u.kind = 'operator'
  ), called (oid) as (
    select u.oid from used as u where u.kind = 'function'
    union
    select o.oprcode::oid from operator as u join pg_operator as o on o.oid = u.oid
  ), is_deep (yes) as (
    -- What makes json of any value calls the casts of its type, what makes a value of json its input
    -- functions, and a function in SQL casts what it gets.
    select exists (select from used as u where u.kind = 'node' and u.note = 'json')
        or exists (
          select from called as c
            join pg_proc as p on p.oid = c.oid
            join pg_language as l on l.oid = p.prolang
           where p.prorettype in ('json'::regtype, 'jsonb'::regtype, 'record'::regtype) and p.provolatile <> 'i'
              or p.proname ~ '(populate_record|to_record)'
              or (p.oid >= 16384 or l.lanname = 'sql')
                 and p.proargtypes::oid[] && array[
                   'anyelement', 'anycompatible', 'anynonarray', '"any"', 'record']::regtype[]::oid[]
        )
  ), part (oid, is_read) as (
    select p, true
      from used as u
     cross join lateral notika._type_parts(u.oid) as p
     where u.kind = 'type' and u.note = 'input'
    union
    select p, false
      from (
        select u.oid from used as u where u.kind = 'type'
        union
        select a.atttypid from pg_attribute as a
         where a.attrelid = _executed.relation and a.attnum > 0 and not a.attisdropped
      ) as u
     cross join lateral notika._type_parts(u.oid) as p
     where (select d.yes from is_deep as d)
  )
  select 'function', p.oid::regprocedure::text, 'pg_proc'::regclass::oid, p.oid, p.proowner, p.provolatile,
         notika._takes_code(p)
    from called as c
    join pg_proc as p on p.oid = c.oid
  union all
  select 'operator', o.oid::regoperator::text, 'pg_operator'::regclass, o.oid, o.oprowner, 'i', false
    from operator as u
    join pg_operator as o on o.oid = u.oid and o.oid >= 16384
  union all
  select 'type', format_type(t.oid, null), 'pg_type'::regclass, t.oid, t.typowner, 'i', false
    from pg_type as t
   where t.oid in (select p.oid from part as p) and t.typtype in ('d', 'r')
  union all
  select 'function', f.oid::regprocedure::text, 'pg_proc'::regclass, f.oid, f.proowner, f.provolatile, false
    from part as p
    join pg_cast as k on p.oid in (k.castsource, k.casttarget)
    join pg_proc as f on f.oid = k.castfunc
   where not p.is_read;
$$;

comment on function notika._executed(jsonb, regclass) is
  'The functions that a condition over rows of a table may execute, and the types whose checks it may.';

create or replace function notika._take_condition(
  spec notika.workflow,
  caller name,
  function oid,
  out condition_sql text,
  out condition_uses jsonb
)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
  -- Its constants are printed here, and read again in sessions with other settings.
  set datestyle = 'ISO, YMD'
  set intervalstyle = 'iso_8601'
  set timezone = 'UTC'
  set bytea_output = 'hex'
  set extra_float_digits = '1'
  set lc_monetary = 'C'
as $$
declare
  v_caller oid := (select r.oid from pg_roles as r where r.rolname = _take_condition.caller);
  v_tree text;
  v_text text;
  v_start text;
  v_unreadable text;
  v_operation text;
  v_found record;
  v_corrected notika.workflow := _take_condition.spec;
begin
  select p.prosqlbody::text, pg_get_function_sqlbody(p.oid)
    into v_tree, v_text
    from pg_proc as p
   where p.oid = _take_condition.function and p.pronamespace = pg_my_temp_schema()
     and p.proowner = v_caller and p.pronargs = 0;
  v_start := format(E'BEGIN ATOMIC\n SELECT true\n    FROM %1$s new,\n     %1$s old\n   WHERE',
                    notika._quoted(spec.relation));
  if v_tree is null
     or not starts_with(v_text, v_start) or right(v_text, 5) <> E';\nEND'
     or (select count(*) from regexp_matches(v_tree, '[{]QUERY ', 'g')) <> 1 + (
       -- A subquery is refused below, with what it is.
       select count(*) from regexp_matches(v_tree, '[{]SUBLINK ', 'g'))
  then
    raise exception 'condition of workflow "%" was not read', spec.name
      using errcode = 'invalid_parameter_value',
            hint = 'It is read by notika.publish(), notika.plan() and notika.backfill(): call one of them.';
  end if;
  if notika._unsafe_literal(v_tree) is not null then
    perform notika._refuse_condition(
      spec, format('it has a constant of type %s', notika._unsafe_literal(v_tree)), '0A000');
  end if;
  if v_tree ~ '[{]SUBLINK ' then
    perform notika._refuse_condition(
      spec, 'it has a subquery, which a trigger''s WHEN cannot have', '0A000',
      'Publish without it, and let the task look.');
  end if;

  select o into v_operation
    from unnest(spec.operations) as o
   where o = 'insert' and v_tree ~ '[{]VAR :varno 2 ' or o = 'delete' and v_tree ~ '[{]VAR :varno 1 '
   limit 1;
  if found then
    v_corrected.operations := coalesce(
      nullif(array_remove(spec.operations, v_operation), '{}'), '{update}');
    raise exception 'condition of workflow "%" refers to %, but % row', spec.name,
      case v_operation when 'insert' then 'old' else 'new' end,
      case v_operation when 'insert' then 'an insert has no old' else 'a delete has no new' end
      using errcode = 'invalid_column_reference',
            detail = format('The condition is: %s', spec.condition),
            hint = format('Publish it without %s, and a second workflow for that: %s',
                          v_operation, notika._call(v_corrected));
  end if;

  -- From the events one could tell what decides about them.
  v_unreadable := notika._unreadable(caller, function, spec.relation);
  if v_unreadable is not null then
    perform notika._refuse_condition(
      spec, format('role "%s" may not read %s of table %s', caller,
                   case v_unreadable when '*' then 'all' else v_unreadable end, spec.table_name),
      '42501', format('Run: grant select%s on %s to %I;',
                      case v_unreadable when '*' then '' else format(' (%s)', v_unreadable) end,
                      spec.table_name, caller));
  end if;

  condition_uses := notika._uses(v_tree);
  select u.kind, u.name into v_found
    from jsonb_to_recordset(condition_uses) as u (kind text, oid oid, name text)
    left join pg_type as t on u.kind = 'type' and t.oid = u.oid
    left join pg_proc as p on u.kind = 'function' and p.oid = u.oid
    left join pg_operator as o on u.kind = 'operator' and o.oid = u.oid
   where pg_is_other_temp_schema(coalesce(t.typnamespace, p.pronamespace, o.oprnamespace))
      or coalesce(t.typnamespace, p.pronamespace, o.oprnamespace) = pg_my_temp_schema()
   limit 1;
  if found then
    perform notika._refuse_condition(
      spec, format('%s %s is temporary', v_found.kind, v_found.name), '0A000',
      'Use what is still there when the session has ended.');
  end if;

  -- A trigger's WHEN is evaluated with the rights of the role that writes.
  select r.rolname, e.name into v_found
    from notika._executed(condition_uses, spec.relation) as e
    join pg_roles as r
      on e.kind = 'function'
     and (r.rolname = caller or notika._may_write(r.oid, spec.relation))
   where not has_function_privilege(r.oid, e.object, 'execute')
   order by r.rolname <> caller, r.rolname, e.name
   limit 1;
  if found then
    perform notika._refuse_condition(
      spec, format('role "%s" %s may not execute function %s', v_found.rolname,
                   case when v_found.rolname = caller then 'publishes it and'
                        else 'writes to the table and' end, v_found.name),
      '42501', format('Run: grant execute on function %s to %I;', v_found.name, v_found.rolname));
  end if;
  select e.name into v_found
    from notika._executed(condition_uses, spec.relation) as e
   where e.reads
   order by e.name
   limit 1;
  if found then
    perform notika._refuse_condition(
      spec, format('it executes function %s, which executes what its arguments name', v_found.name),
      '0A000', 'Compare columns and constants, or let the task look.',
      'It would run with the rights of every role that writes to the table.');
  end if;
  select e.kind, e.name, pg_get_userbyid(e.owner) as owner into v_found
    from notika._executed(condition_uses, spec.relation) as e
    join pg_class as c on c.oid = spec.relation
   where e.owner not in (c.relowner, v_caller, (
           select n.nspowner from pg_namespace as n where n.nspname = 'notika'))
     and not notika._is_trusted(e.class, e.object, e.owner)
     and not (pg_has_role(v_caller, e.owner, 'usage')
              and not (select r.rolsuper from pg_roles as r where r.oid = v_caller))
   order by e.kind, e.name
   limit 1;
  if found then
    perform notika._refuse_condition(
      spec, format('it executes %s %s, which is owned by "%s"',
                   case v_found.kind when 'type' then 'the checks of type' else v_found.kind end,
                   v_found.name, v_found.owner),
      '42501',
      format('If you trust it: alter %s %s owner to %I;', v_found.kind, v_found.name, (
        select pg_get_userbyid(c.relowner) from pg_class as c where c.oid = spec.relation)),
      'It would run with the rights of every role that writes to the table. It may use what is owned '
      'by the owner of the table, by the role that publishes, by a superuser, or by an extension.');
  end if;

  -- Names are found by the owner as well, when it makes the trigger.
  select string_agg(distinct format('grant usage on schema %I to %I;', n.nspname, current_user), ' ') as statements
    into v_found
    from jsonb_to_recordset(condition_uses) as u (kind text, oid oid, name text)
    left join pg_type as t on u.kind = 'type' and t.oid = u.oid
    left join pg_proc as p on u.kind = 'function' and p.oid = u.oid
    left join pg_operator as o on u.kind = 'operator' and o.oid = u.oid
    join pg_namespace as n on n.oid = coalesce(t.typnamespace, p.pronamespace, o.oprnamespace)
   where not has_schema_privilege(n.oid, 'usage');
  if v_found.statements is not null then
    perform notika._refuse_condition(
      spec, format('role "%s", which owns Notika, may not use a schema that it names', current_user),
      '42501', 'Run: ' || v_found.statements);
  end if;

  -- A constant in a trigger stays what it is when a label of its type is renamed; a text would not.
  condition_sql := regexp_replace(
    ltrim(substr(v_text, length(v_start) + 1, length(v_text) - length(v_start) - 5), E' \n'),
    $re$\(('(?:[^']|'')*')::text\)::((?:[[:alpha:]_][\w$]*|"(?:[^"]|"")*")\.)$re$, '\1::\2', 'g');
end;
$$;

comment on function notika._take_condition(notika.workflow, name, oid) is
  'Takes a condition from the temporary function that its author has read it into: its text with all '
  'names in full, and what they mean; or says why it cannot be published.';

create or replace function notika._distrusted(uses jsonb, relation regclass)
  returns table (kind text, name text, flaw text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select e.kind, e.name,
         case when e.volatility = 'v' then 'is volatile'
              when e.reads then 'executes what its arguments name' end
    from notika._executed(_distrusted.uses, _distrusted.relation) as e
   where e.volatility = 'v' or e.reads
      or e.owner <> (select r.oid from pg_roles as r where r.rolname = current_user)
         and not notika._is_trusted(e.class, e.object, e.owner)
   order by 1, 2
   limit 1;
$$;

comment on function notika._distrusted(jsonb, regclass) is
  'A function or type that the owner should not let a condition use: it is not the owner''s, nor a '
  'superuser''s, or it does more than compute.';

create or replace function notika._with_names(spec notika.workflow)
  returns notika.workflow
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
as $$
declare
  v_spec notika.workflow := _with_names.spec;
  v_use record;
begin
  -- Of a type there is one by each name: where it has another name now, so it has in the condition.
  for v_use in
    select u.oid, u.name as old_name, m.name as new_name, m.others
      from jsonb_to_recordset(v_spec.condition_uses) as u (kind text, oid oid, name text)
     cross join lateral notika._meaning(u.kind, u.oid) as m
     where u.kind = 'type' and m.name <> u.name
  loop
    -- A cast to it is a token of its own; in a string or in a name it is none.
    select string_agg(case t.token[1] when '::' || v_use.old_name then '::' || v_use.new_name
                                      else t.token[1] end, '' order by t.place)
      into v_spec.condition_sql
      from regexp_matches(
             v_spec.condition_sql,
             '::' || regexp_replace(v_use.old_name, '([^\w\s])', '\\\1', 'g') || '(?![\w$."])'
             || $re$|'(?:[^']|'')*'|"(?:[^"]|"")*"|[^'":]+|.$re$,
             'g') with ordinality as t (token, place);
    select jsonb_agg(case when (u.use ->> 'oid')::oid = v_use.oid and u.use ->> 'kind' = 'type'
                          then u.use || jsonb_build_object('name', v_use.new_name)
                          else u.use end order by u.place)
      into v_spec.condition_uses
      from jsonb_array_elements(v_spec.condition_uses) with ordinality as u (use, place);
  end loop;
  return v_spec;
end;
$$;

comment on function notika._with_names(notika.workflow) is
  'A workflow whose condition has the names that its types have now.';

create or replace function notika._expect_meaning(spec notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_lost text := notika._lost_meaning(spec.condition_uses);
begin
  if v_lost is not null then
    raise exception 'the condition of workflow "%" may mean something else by now: % was replaced, or '
                    'there is more by that name', spec.name, v_lost
      using errcode = 'NK002',
            detail = format('The condition is: %s', spec.condition),
            hint = 'Look at it and publish it again: ' || notika._call(spec);
  end if;
end;
$$;

comment on function notika._expect_meaning(notika.workflow) is
  'An error if a name in the condition of a workflow may mean something else than when it was '
  'published: then the owner must not parse it.';

create or replace function notika._expect_as_read(spec notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_other text;
begin
  select format('%s %s', u.kind, u.name) into v_other
    from notika._triggers(spec.workflow_id) as t
    join pg_trigger as g on g.tgrelid = t.relation and g.tgname = t.name
   cross join lateral jsonb_to_recordset(notika._uses(g.tgqual::text))
                as u (kind text, oid oid, name text)
   where spec.is_pinned and spec.condition_uses is not null
     and u.name is not null
     and not exists (
       select from jsonb_to_recordset(spec.condition_uses) as k (kind text, oid oid)
        where (k.kind, k.oid) = (u.kind, u.oid)
     )
     -- What else the trigger compares is of its columns' types.
     and not exists (
       select from pg_attribute as a
         join pg_type as y on y.oid = a.atttypid
        where u.kind = 'type' and a.attrelid = t.relation and u.oid in (y.oid, y.typelem)
     )
   limit 1;
  if found then
    raise exception 'the condition of workflow "%" came to mean something else while it was published: %',
      spec.name, v_other
      using errcode = 'NK002',
            hint = 'Publish it again: ' || notika._call(spec);
  end if;
end;
$$;

comment on function notika._expect_as_read(notika.workflow) is
  'An error if the condition in a trigger calls what the condition that was read does not.';

create or replace function notika._names_hold_code(uses jsonb)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  -- In the catalog alone: the writer has no right on Notika.
  select coalesce(string_agg(c.code, E'\n     and ' order by c.code), 'true')
    from jsonb_to_recordset(_names_hold_code.uses) as u (kind text, oid oid, name text)
   cross join lateral (
     select case u.kind
       when 'type' then (
         select format('exists (select from pg_type as t where t.oid = %s and t.typname = %L '
                       'and t.typnamespace = (select n.oid from pg_namespace as n where n.nspname = %L)) '
                       'and (select array_agg(c.castfunc::bigint order by c.oid) from pg_cast as c '
                       'where %1$s in (c.castsource, c.casttarget)) is not distinct from %4$L::bigint[]',
                       t.oid, t.typname, n.nspname, (
                         select array_agg(c.castfunc::bigint order by c.oid) from pg_cast as c
                          where t.oid in (c.castsource, c.casttarget)))
           from pg_type as t join pg_namespace as n on n.oid = t.typnamespace
          where t.oid = u.oid)
       when 'function' then (
         select format('(select array_agg(p.oid::bigint order by p.oid) from pg_proc as p where p.proname = %L '
                       'and p.pronamespace = (select n.oid from pg_namespace as n where n.nspname = %L)) '
                       'is not distinct from %L::bigint[]', p.proname, n.nspname, (
                         select array_agg(o.oid::bigint order by o.oid) from pg_proc as o
                          where o.proname = p.proname and o.pronamespace = p.pronamespace))
           from pg_proc as p join pg_namespace as n on n.oid = p.pronamespace
          where p.oid = u.oid)
       else (
         select format('(select array_agg(p.oid::bigint order by p.oid) from pg_operator as p where p.oprname = %L '
                       'and p.oprnamespace = (select n.oid from pg_namespace as n where n.nspname = %L)) '
                       'is not distinct from %L::bigint[]', p.oprname, n.nspname, (
                         select array_agg(o.oid::bigint order by o.oid) from pg_operator as o
                          where o.oprname = p.oprname and o.oprnamespace = p.oprnamespace))
           from pg_operator as p join pg_namespace as n on n.oid = p.oprnamespace
          where p.oid = u.oid)
     end as code
   ) as c
   where u.name is not null;
$$;

comment on function notika._names_hold_code(jsonb) is
  'SQL that is true while the names that a condition uses mean what they do now.';
