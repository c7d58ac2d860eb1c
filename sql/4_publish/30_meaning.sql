-- What the names in a condition meant when it was published, and whether they still mean it.

create or replace function notika._columns_hold_code(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
begin
  -- In the catalog alone: the writer has no right on Notika. In a restored copy all oids differ.
  -- The types are included because a session would keep its plan, and fail.
  return (
    with read (attnum, attname, type) as (
      select a.attnum, a.attname, a.atttypid
        from pg_attribute as a
       where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped
         and notika._reads(spec.condition_sql, a.attname)
    ), label (oid, name) as (
      select distinct e.oid, e.enumlabel
        from (
          select l.type from read as r cross join lateral notika._leaf_types(r.type) as l (type)
          union
          select u.oid from jsonb_to_recordset(spec.condition_uses) as u (kind text, oid oid) where u.kind = 'type'
        ) as t
        join pg_enum as e on e.enumtypid = t.type
    )
    select E'\n     and (not exists (select from pg_class as c where c.relname = ''workflow'' and c.oid = '
           || 'notika.workflow'::regclass::oid || ')'
           || E'\n          or ' || string_agg(h.code, E'\n             and ' order by h.code) || ')'
      from (
        select format('%s = (select count(*) from pg_attribute as a where a.attrelid = %s '
                      'and (a.attnum, a.attname, a.atttypid) in (%s))', count(*), spec.relation::oid,
                      string_agg(format('(%s, %L, %s)', r.attnum, r.attname, r.type), ', ' order by r.attnum))
          from read as r
        having count(*) > 0
        union all
        select format('%s = (select count(*) from pg_enum as e where (e.oid, e.enumlabel) in (%s))', count(*),
                      string_agg(format('(%s, %L)', l.oid, l.name), ', ' order by l.oid))
          from label as l
        having count(*) > 0
      ) as h (code)
  );
end;
$$;

comment on function notika._columns_hold_code(notika.workflow) is
  'SQL that is true while the columns that a condition reads, and the labels of their enums, have '
  'the names and types that they have now; null if it reads none.';

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
  'An object that a condition uses whose name may mean something else now; null if all names mean '
  'the same.';

create or replace function notika._uses_by_name(uses jsonb)
  returns jsonb
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Of several functions or operators of a name, the text of the condition would choose the same
  -- one.
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
  'What a condition uses, found by its names again: in a restored copy the oids differ.';

create or replace function notika._takes_code(function pg_proc)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- The text of a query, the name of a table or type, or its oid: the input function of a domain,
  -- and functions that read a partition key, execute code that belongs to it.
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
    -- A function that makes json of any value calls the casts of its type, one that makes a value
    -- of json calls its input functions, and a function in SQL casts its arguments.
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
  'The functions that a condition over rows of a table may execute, and the types whose checks it '
  'may execute.';

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
       -- A subquery is refused below, by its own message.
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
      'Publish without it, and check that in the task.');
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
                          v_operation, notika._publish_call(v_corrected));
  end if;

  -- The events would reveal what decides about them.
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
      'Use objects that still exist when the session has ended.');
  end if;

  -- The WHEN of a trigger is evaluated with the rights of the role that writes.
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
      '0A000', 'Compare columns and constants, or check that in the task.',
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
      'It would run with the rights of every role that writes to the table. It may use objects owned '
      'by the owner of the table, by the role that publishes, by a superuser, or by an extension.');
  end if;

  -- Names are found by the owner too, when it creates the trigger.
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

  -- A constant in a trigger remains the same when a label of its type is renamed; a text would
  -- not.
  condition_sql := regexp_replace(
    ltrim(substr(v_text, length(v_start) + 1, length(v_text) - length(v_start) - 5), E' \n'),
    $re$\(('(?:[^']|'')*')::text\)::((?:[[:alpha:]_][\w$]*|"(?:[^"]|"")*")\.)$re$, '\1::\2', 'g');
end;
$$;

comment on function notika._take_condition(notika.workflow, name, oid) is
  'Takes a condition from the temporary function into which its author has read it: its text with '
  'all names qualified, and what they mean; or an error that says why it cannot be published.';

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
  'A function or type that the owner should not let a condition use: it does not belong to the '
  'owner or a superuser, or has other effects than its result.';

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
  -- A type has one meaning by each name: if it has another name now, the condition gets that name.
  for v_use in
    select u.oid, u.name as old_name, m.name as new_name, m.others
      from jsonb_to_recordset(v_spec.condition_uses) as u (kind text, oid oid, name text)
     cross join lateral notika._meaning(u.kind, u.oid) as m
     where u.kind = 'type' and m.name <> u.name
  loop
    -- A cast to it is a token of its own; in a string or in a quoted name it is not.
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
  'A workflow whose condition has the current names of its types.';

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
    raise exception 'the condition of workflow "%" may mean something else now: % was replaced, or '
                    'there are other objects of that name', spec.name, v_lost
      using errcode = 'NK002',
            detail = format('The condition is: %s', spec.condition),
            hint = 'Check it and publish it again: ' || notika._publish_call(spec);
  end if;
end;
$$;

comment on function notika._expect_meaning(notika.workflow) is
  'Raises an error if a name in the condition of a workflow may mean something else than when it '
  'was published: then the owner must not parse it.';

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
