-- Conditions: text of other roles that becomes part of a trigger and of a query of the owner.
-- Parsing executes code: a string is passed to the input function of the type with which it is
-- compared, which evaluates the checks of domains in arrays, composites and ranges. So the caller
-- parses the condition, twice: first with null::unknown in place of each string, which resolves to
-- the same tree and calls no input function; then with its strings, if no constant in that tree
-- has a type that would execute code. A name may refer to another object meanwhile: if the
-- condition contains one, each string is text that is converted when the condition is evaluated.
-- The owner takes the finished tree, keeps it as text with every name qualified, and keeps what
-- each name meant: it parses that text only while the names mean the same, and compares the
-- result.

create or replace function notika._unreadable(caller name, function regprocedure, relation regclass)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case
           when has_table_privilege(_unreadable.caller, _unreadable.relation, 'select') then null
           -- A row as a whole leaves no entry in pg_depend.
           when (
             select p.prosqlbody::text ~ ':varattno 0 ' from pg_proc as p where p.oid = _unreadable.function
           ) then '*'
           else (
             select string_agg(quote_ident(a.attname), ', ' order by a.attnum)
               from pg_depend as d
               join pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
              where d.classid = 'pg_proc'::regclass and d.objid = _unreadable.function
                and d.refclassid = 'pg_class'::regclass and d.refobjid = _unreadable.relation
                and a.attnum > 0
                and not has_column_privilege(_unreadable.caller, d.refobjid, a.attnum, 'select')
           )
         end;
$$;

comment on function notika._unreadable(name, regprocedure, regclass) is
  'The columns of a table that a function reads and the caller may not; *: the row as a whole.';

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
  null; -- nothing can be created on it, and that error follows
end;
$$;

comment on function notika._hold_columns(notika.workflow) is
  'Keeps the columns that a condition uses as they are until the end of the transaction.';

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
            'Write one expression over new and old, for example: new.<column> is not null.');
end;
$$;

comment on function notika._refuse_condition(notika.workflow, text, text, text, text) is
  'Raises an error that says what is wrong with a condition.';

create or replace function notika._parse_condition(spec notika.workflow, condition text)
  returns text
  language plpgsql
  volatile
  security invoker -- what parsing executes runs with the rights of the caller
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set client_min_messages = warning
as $$
declare
  v_state text;
  v_message text;
  v_hint text;
begin
  -- Postgres checks it as an expression over two rows. What it refuses in a WHERE it refuses in
  -- the WHEN of a trigger, in which it refuses subqueries too.
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
      -- The error is about the condition as it was given, if that differs.
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
  -- Without strings and quoted names, the rest must not end the expression that contains it.
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
    -- A backslash in a string may hide a quote.
    when v_bare ~* $re$(^|[^a-z0-9_])(e|n)'|u&'$re$ then 'it has a string with escapes'
  end;
  if v_problem is not null then
    v_corrected.condition := 'new.<column> is not null';
    raise exception 'condition of workflow "%" is not valid: %', spec.name, v_problem
      using errcode = 'syntax_error',
            detail = format('The condition is: %s', spec.condition),
            hint = 'Write one expression over new and old, for example: '
                   || notika._publish_call(v_corrected);
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
  if notika._raise_without_context(v_state, v_message, v_detail, v_hint, v_context) then
    return null;
  end if;
  raise;
end;
$$;

comment on function notika._read_condition(notika.workflow) is
  'Parses a condition as the caller into a temporary function, if that executes only Postgres'' '
  'own code and that of superusers; otherwise an error says why the condition is not valid.';

create or replace function notika._meaning(kind text, object oid)
  returns table (name text, others text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
  -- By other objects of that name, or conversions to them, its meaning could change.
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
  'The name of a type, function or operator, and the other objects of that name.';

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
  'What a condition with this tree uses: types, functions and operators, each with its oid and, '
  'if it is not Postgres'' own, its name and the other objects of that name.';
