-- publish, plan, unpublish: the only functions that do DDL on somebody's table.
-- plan and publish share everything up to the list of steps; publish then executes it, under a lock
-- timeout.  The condition is text that becomes part of a statement, so it is taken apart first.

create or replace function notika._call(spec notika.workflow, shown text default null)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select notika.publish(%L, %L%s%s%s%s%s%s%s%s);',
    (spec).name,
    (spec).table_name,
    ', operations => ' || quote_literal((spec).operations::text),
    ', columns => ' || quote_literal((spec).columns::text),
    ', watch => ' || quote_literal((spec).watch::text),
    ', condition => ' || quote_literal((spec).condition),
    case when (spec).guard <> 'block' or shown = 'guard'
         then ', guard => ' || quote_literal((spec).guard) end,
    case when (spec).on_rename <> 'follow' or shown = 'on_rename'
         then ', on_rename => ' || quote_literal((spec).on_rename) end,
    ', options => ' || quote_literal(nullif((spec).options, '{}')::text),
    ', match => ' || quote_literal((spec).match::text)
  );
$$;

comment on function notika._call(notika.workflow, text) is
  'The call of publish that has this meaning, without what goes without saying, but with the option '
  'that is to be shown.';

create or replace function notika._is_reserved(namespace oid)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select n.nspname ~ '^(pg_.*|information_schema|notika|notika_worker)$'
    from pg_namespace as n
   where n.oid = _is_reserved.namespace;
$$;

comment on function notika._is_reserved(oid) is
  'Whether a schema is Postgres'' own or Notika''s: its tables are not published.';

create or replace function notika._find_table(spec notika.workflow)
  returns regclass
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_parts text[];
  v_class pg_class;
  v_kind text;
  v_instead text;
  v_corrected notika.workflow := _find_table.spec;
begin
  begin
    v_parts := parse_ident(spec.table_name);
  exception when invalid_parameter_value or null_value_not_allowed then
    v_parts := null;
  end;

  if cardinality(v_parts) = 2 then
    select c.* into v_class
      from pg_class as c
     where c.oid = notika._relation(v_parts[1], v_parts[2]);
  end if;

  if v_class.oid is null then
    select notika._quoted(c.oid) into v_instead
      from pg_class as c
     where c.relkind in ('r', 'p')
       and c.relpersistence <> 't'
       and not notika._is_reserved(c.relnamespace)
       and left(translate(lower(c.relname), '_', ''), 4)
           = left(translate(lower(v_parts[cardinality(v_parts)]), '_', ''), 4)
     order by lower(c.relname) <> lower(v_parts[cardinality(v_parts)]),
              abs(length(c.relname) - length(v_parts[cardinality(v_parts)])), c.relname
     limit 1;
    v_corrected.table_name := coalesce(v_instead, '<schema>.<table>');

    if v_parts is null or cardinality(v_parts) <> 2 then
      raise exception 'table name "%" does not name a schema and a table', spec.table_name
        using errcode = 'invalid_name',
              detail = 'Names are not looked up on the search path.',
              hint = 'Write: ' || notika._call(v_corrected);
    end if;
    raise exception 'table "%" does not exist', spec.table_name
      using errcode = 'undefined_table',
            detail = format('Workflow "%s" was to be published on it.', spec.name),
            hint = case when v_instead is null
                        then 'The tables of a schema: select * from pg_tables where schemaname = '
                             || quote_literal(v_parts[1]) || ';'
                        else 'Did you mean: ' || notika._call(v_corrected) end;
  end if;

  v_kind := case v_class.relkind
              when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table'
              when 'S' then 'sequence' when 'c' then 'composite type'
              when 'i' then 'index' when 'I' then 'index' when 't' then 'toast table'
            end;
  if v_kind is not null then
    select notika._quoted(t.oid) into v_instead
      from pg_rewrite as r
      join pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
       and d.refclassid = 'pg_class'::regclass and d.refobjid <> v_class.oid
      join pg_class as t on t.oid = d.refobjid and t.relkind in ('r', 'p')
     where r.ev_class = v_class.oid and not notika._is_reserved(t.relnamespace)
     order by 1
     limit 1;
    v_corrected.table_name := coalesce(v_instead, '<schema>.<table>');
    raise exception 'cannot publish on % "%"', v_kind, spec.table_name
      using errcode = 'wrong_object_type',
            detail = 'Only the rows of a table have triggers for each row.',
            hint = 'Publish on a table: ' || notika._call(v_corrected);
  end if;

  if v_class.relpersistence = 't' or notika._is_reserved(v_class.relnamespace) then
    raise exception 'cannot publish on "%"', spec.table_name
      using errcode = 'wrong_object_type',
            detail = 'System tables, temporary tables and Notika''s own are not published.',
            hint = 'Publish on a table of the application.';
  end if;
  return v_class.oid;
end;
$$;

comment on function notika._find_table(notika.workflow) is 'The table to publish on, or an error.';

create or replace function notika._check_columns(spec notika.workflow, what text, names text[])
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_column text;
  v_known text[];
  v_corrected notika.workflow := _check_columns.spec;
begin
  select array_agg(a.attname order by a.attnum) into v_known
    from pg_attribute as a
   where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped;

  foreach v_column in array coalesce(names, '{}') loop
    continue when v_column = any (v_known);
    -- Often a name is right but for its case or an underscore.
    names := array(
      select k.name
        from unnest(names) with ordinality as n (name, place)
        join unnest(v_known) as k (name)
          on k.name = n.name
          or n.name <> all (v_known)
         and lower(translate(k.name, '_', '')) = lower(translate(n.name, '_', ''))
       group by k.name
       order by min(n.place)
    );
    if what = 'columns' then
      v_corrected.columns := nullif(names, '{}');
    else
      v_corrected.watch := nullif(names, '{}');
    end if;
    raise exception 'column "%" of table % does not exist',
      coalesce(v_column, 'null'), spec.table_name
      using errcode = 'undefined_column',
            detail = format('Its columns are %s.', array_to_string(v_known, ', ')),
            hint = format('Correct %s, for instance: %s', what, notika._call(v_corrected));
  end loop;

  if names = '{}' then
    raise exception '% of workflow "%" is empty', what, spec.name
      using errcode = 'invalid_parameter_value',
            hint = 'Leave it out for '
                   || case what when 'columns' then 'the whole row: ' else 'any update: ' end
                   || notika._call(v_corrected);
  end if;

  -- They are computed when they are read, and a trigger gets the row as it is stored.
  if what = 'columns' and current_setting('server_version_num')::integer >= 180000 then
    for v_column in
      select a.attname
        from pg_attribute as a
       where a.attrelid = spec.relation and a.attgenerated = 'v' and not a.attisdropped
         and (names is null or a.attname = any (names))
    loop
      raise warning 'column "%" of table % is virtual and always null in events',
        v_column, spec.table_name
        using hint = 'Publish the columns it is computed from, or make it stored.';
    end loop;
  end if;
end;
$$;

comment on function notika._check_columns(notika.workflow, text, text[]) is
  'Refuses columns that the table does not have.';

create or replace function notika._unreadable(caller name, function regprocedure, relation regclass)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case
           when has_table_privilege(_unreadable.caller, _unreadable.relation, 'select') then null
           -- A row as a whole leaves no trace in pg_depend.
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

create or replace function notika._may_write(role oid, relation regclass)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select (has_any_column_privilege(r.oid, _may_write.relation, 'insert, update')
          or has_table_privilege(r.oid, _may_write.relation, 'delete'))
     and r.rolname !~ '^pg_' -- its members are judged themselves
    from pg_roles as r
   where r.oid = _may_write.role;
$$;

comment on function notika._may_write(oid, regclass) is 'Whether a role may write to a table.';

create or replace function notika._family(relation regclass)
  returns setof regclass
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
    -- Partitions get their parent's triggers from Postgres, inheritance children do not.
  return query
    with recursive family as (
      select _family.relation::oid as oid
      union
      select i.inhrelid
        from family as f
        join pg_inherits as i on i.inhparent = f.oid
        join pg_class as c on c.oid = i.inhrelid and not c.relispartition and c.relpersistence <> 't'
    )
    select f.oid::regclass from family as f;
end;
$$;

comment on function notika._family(regclass) is
  'A table and its inheritance children: those that need triggers of their own.';

create or replace function notika._owner()
  returns name
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select pg_get_userbyid(n.nspowner) from pg_namespace as n where n.nspname = 'notika';
$$;

comment on function notika._owner() is 'The role that owns Notika, also for code that runs as another.';

create or replace function notika._needed_rights(relation regclass, function regprocedure)
  returns table (privilege text, object text, is_had boolean, may_grant boolean)
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_owner constant name := notika._owner();
begin
  return query
    with part (oid) as (
      select f::oid from notika._family(_needed_rights.relation) as f
      union
      select p.relid from pg_partition_tree(_needed_rights.relation) as p
    ), schema (oid, is_tables) as (
      select c.relnamespace, true from pg_class as c where c.oid = _needed_rights.relation
      union
      -- Those that a condition names.
      select coalesce(p.pronamespace, t.typnamespace, o.oprnamespace), false
        from pg_depend as d
        left join pg_proc as p on d.refclassid = 'pg_proc'::regclass and p.oid = d.refobjid
        left join pg_type as t on d.refclassid = 'pg_type'::regclass and t.oid = d.refobjid
        left join pg_operator as o on d.refclassid = 'pg_operator'::regclass and o.oid = d.refobjid
       where d.classid = 'pg_proc'::regclass and d.objid = _needed_rights.function
         and coalesce(p.pronamespace, t.typnamespace, o.oprnamespace) is not null
    )
    select n.privilege, n.object, n.is_had, n.may_grant
      from (
        select 1 as place, 'usage' as privilege, format('schema %I', n.nspname) as object,
               has_schema_privilege(v_owner, n.oid, 'usage') as is_had,
               pg_has_role(n.nspowner, 'usage') or has_schema_privilege(n.oid, 'usage with grant option')
                 as may_grant
          from pg_namespace as n
         where n.oid in (select s.oid from schema as s) and n.nspname !~ '^pg_'
        union all
        select 2, k.privilege, format('table %s', notika._quoted(c.oid)),
               has_table_privilege(v_owner, c.oid, k.privilege),
               pg_has_role(c.relowner, 'usage') or has_table_privilege(c.oid, k.privilege || ' with grant option')
          from pg_class as c
         cross join unnest('{select,trigger}'::text[]) as k (privilege)
         where c.oid in (select p.oid from part as p)
        union all
        -- Everybody has it unless it was revoked.
        select 3, 'usage', format('type %s', notika._quoted(c.oid)),
               has_type_privilege(v_owner, c.reltype, 'usage'),
               pg_has_role(c.relowner, 'usage') or has_type_privilege(c.reltype, 'usage with grant option')
          from pg_class as c
         where c.oid in (select p.oid from part as p)
      ) as n
     order by n.place, n.object, n.privilege;
end;
$$;

comment on function notika._needed_rights(regclass, regprocedure) is
  'The rights that the owner of Notika needs on a table to capture its changes, to read its rows, and '
  'to name what a condition uses; whether it has them, and whether the caller may grant them.';

create or replace function notika._grant_missing(relation regclass, function regprocedure)
  returns jsonb
  language plpgsql
  volatile
  security invoker -- as somebody who may
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_owner constant name := notika._owner();
  v_right record;
  v_given jsonb := '[]'::jsonb;
begin
  for v_right in
    select n.* from notika._needed_rights(_grant_missing.relation, _grant_missing.function) as n
     where not n.is_had and n.may_grant
  loop
    execute format('grant %s on %s to %I', v_right.privilege, v_right.object, v_owner);
    v_given := v_given || jsonb_build_object('privilege', v_right.privilege, 'object', v_right.object);
  end loop;
  return v_given;
end;
$$;

comment on function notika._grant_missing(regclass, regprocedure) is
  'Grants the owner of Notika what it lacks on a table, as far as the caller may, and says what.';

create or replace function notika._revoke_given(given json)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner constant name := notika._owner();
  v_right record;
begin
  for v_right in
    select g.privilege, g.object from json_to_recordset(given) as g (privilege text, object text)
  loop
    begin
      execute format('revoke %s on %s from %I', v_right.privilege, v_right.object, v_owner);
    exception when insufficient_privilege or undefined_table or undefined_object or invalid_schema_name then
      null; -- uninstall names what is left
    end;
  end loop;
end;
$$;

comment on function notika._revoke_given(json) is
  'Takes back what _grant_missing gave, as far as the caller may.';

create or replace function notika._keep_given(before jsonb, given jsonb, spec notika.workflow)
  returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Only what is about this table: what is said to have been given will be taken back.
  select coalesce(jsonb_agg(distinct g.right), '[]')
    from jsonb_array_elements(_keep_given.before || coalesce(_keep_given.given, '[]')) as g ("right")
   where g.right in (
     select jsonb_build_object('privilege', n.privilege, 'object', n.object)
       from notika._needed_rights((spec).relation, null) as n
   );
$$;

comment on function notika._keep_given(jsonb, jsonb, notika.workflow) is
  'What publish has granted for a workflow, with what it granted just now.';

create or replace function notika._unneeded(spec notika.workflow)
  returns json
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(json_agg(g.right), '[]')
    from jsonb_array_elements((spec).given) as g ("right")
   where g.right not in (
     select jsonb_build_object('privilege', n.privilege, 'object', n.object)
       from notika.workflow as w
      cross join lateral notika._needed_rights(w.relation, null) as n
      where w.unpublished_at is null and w.relation is not null and w.workflow_id <> (spec).workflow_id
   );
$$;

comment on function notika._unneeded(notika.workflow) is
  'What publish has granted for a workflow and no other one needs.';

create or replace function notika._check_rights(spec notika.workflow, caller name)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_columns text;
begin
  if not has_schema_privilege(caller, (
    select c.relnamespace from pg_class as c where c.oid = spec.relation
  ), 'usage') then
    raise exception 'role "%" may not use the schema of table %', caller, spec.table_name
      using errcode = 'insufficient_privilege',
            hint = format('Run: grant usage on schema %I to %I;', (parse_ident(spec.table_name))[1], caller);
  end if;
  if not has_table_privilege(caller, spec.relation, 'trigger') then
    raise exception 'role "%" may not create triggers on table %', caller, spec.table_name
      using errcode = 'insufficient_privilege',
            hint = format('Run: grant trigger on %s to %I;', spec.table_name, caller);
  end if;

  -- Publishing shows the rows to those who read events: only for a role that may read them anyway.
  if spec.columns is null then
    if not has_table_privilege(caller, spec.relation, 'select') then
      raise exception 'role "%" may not read table %', caller, spec.table_name
        using errcode = 'insufficient_privilege',
              hint = format('Run: grant select on %s to %I;', spec.table_name, caller);
    end if;
  else
    select string_agg(format('%I', k.name), ', ') into v_columns
      from unnest(spec.columns || spec.watch) as k (name)
     where not has_column_privilege(caller, spec.relation, k.name, 'select');
    if v_columns is not null then
      raise exception 'role "%" may not read % of table %', caller, v_columns, spec.table_name
        using errcode = 'insufficient_privilege',
              hint = format('Run: grant select (%s) on %s to %I;', v_columns, spec.table_name, caller);
    end if;
  end if;
end;
$$;

comment on function notika._check_rights(notika.workflow, name) is
  'Refuses to publish a table for a caller who could not attach a trigger to it, or read it.';

create or replace function notika._check_own_rights(spec notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_right record;
begin
  select n.* into v_right
    from notika._needed_rights(spec.relation, null) as n
   where not n.is_had and n.privilege <> 'select'
     and (spec.columns is not null or n.object not like 'type %')
   order by n.object = 'table ' || spec.table_name desc
   limit 1;
  if found then
    raise exception 'role "%", which owns Notika, may not %', current_user,
        case when v_right.object like 'schema %' then format('use the schema of table %s', spec.table_name)
             when v_right.object like 'type %' then format('use the row type of table %s', substr(v_right.object, 6))
             else format('create triggers on table %s', substr(v_right.object, 7)) end
      using errcode = 'insufficient_privilege',
            detail = format('Its caller does not own the %s and may not grant it.', v_right.object),
            hint = format('Let the owner of it, or an administrator, run: grant %s on %s to %I;',
                          v_right.privilege, v_right.object, current_user);
  end if;
end;
$$;

comment on function notika._check_own_rights(notika.workflow) is
  'Refuses to publish a table on which the owner of Notika may not make what it needs.';

create or replace function notika._may_decide(spec notika.workflow, caller name)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select pg_has_role(_may_decide.caller, current_user, 'member')
      or coalesce((
           select pg_has_role(_may_decide.caller, r.oid, 'member')
             from pg_roles as r
            where r.oid = (spec).publisher_id
         ), false)
      or coalesce((
           select pg_has_role(_may_decide.caller, c.relowner, 'member')
             from pg_class as c
            where c.oid = (spec).relation
         ), false);
$$;

comment on function notika._may_decide(notika.workflow, name) is
  'Whether a role is a member of the one that published a workflow, of the owner of its table, or of '
  'the owner of Notika.';

create or replace function notika._expect_decider(spec notika.workflow, caller name, or_runner boolean default false)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner oid := (select c.relowner from pg_class as c where c.oid = spec.relation);
begin
  if notika._may_decide(spec, caller)
     or or_runner and has_function_privilege(caller, 'notika.dispatch(integer)', 'execute')
  then
    return;
  end if;
  raise exception 'role "%" may not decide about workflow "%"', caller, spec.name
    using errcode = 'insufficient_privilege',
          detail = format('It was published by "%s"%s. It may be changed by members of %s.',
                     spec.published_by,
                     case when v_owner is not null
                          then format(', its table is owned by "%s"', pg_get_userbyid(v_owner)) end,
                     case when v_owner is not null then 'these roles and of the owner of Notika'
                          else 'this role and of the owner of Notika' end),
          hint = format('Let a member of one of these roles do it, or an administrator run: grant %I to %I;',
                        -- Of a superuser nobody should become a member.
                        coalesce((
                          select r.rolname from pg_roles as r
                           where r.oid in (v_owner, spec.publisher_id) and not r.rolsuper
                           order by r.oid = v_owner desc
                           limit 1
                        ), current_user), caller);
end;
$$;

comment on function notika._expect_decider(notika.workflow, name, boolean) is
  'An error unless the caller may change a workflow, or, where runners may as well, is a runner.';

create or replace function notika._check_match(spec notika.workflow, match text[])
  returns text[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_corrected notika.workflow := _check_match.spec;
  v_match text[] := array(
    select regexp_replace(m, '^\s*(.*?)\s*(=)\s*(.*?)\s*$', '\1\2\3')
      from unnest(_check_match.match) as m
     order by 1
  );
  v_known text[];
  v_key text;
  v_workflow notika.workflow;
begin
  if v_match = '{}' then
    return null;
  end if;
  if notika._workflow_of(spec.name) is null then
    v_corrected.name := left(spec.name, 63) || ':change';
    v_corrected.match := v_match;
    raise exception 'match of workflow "%" has no meaning', spec.name
      using errcode = 'invalid_parameter_value',
            detail = 'A source of a workflow, which its runs wait for, has one.',
            hint = 'For instance: ' || notika._call(v_corrected);
  end if;
  if cardinality(v_match) > 8 then
    raise exception 'match of source "%" has more than 8 columns', spec.name
      using errcode = 'invalid_parameter_value',
            hint = 'Compare those that tell the rows apart.';
  end if;

  select array_agg(a.attname order by a.attnum) into v_known
    from pg_attribute as a
   where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped;
  foreach v_key in array notika._match_keys(v_match) loop
    continue when v_key = any (spec.columns);
    if v_key = any (v_known) then
      v_corrected.columns := case when spec.columns is null then v_known
                                  else spec.columns || v_key end;
      v_corrected.match := v_match;
      raise exception 'match of source "%" has "%", which is not among its columns',
        spec.name, v_key
        using errcode = 'invalid_parameter_value',
              detail = 'What is compared must be published by its name, so that the guard keeps it.',
              hint = 'Publish it: ' || notika._call(v_corrected);
    end if;
    v_corrected.match := array_remove(v_match, v_key);
    raise exception 'column "%" of table % does not exist', coalesce(v_key, 'null'), spec.table_name
      using errcode = 'undefined_column',
            detail = format('Its columns are %s.', array_to_string(v_known, ', ')),
            hint = 'Correct match, for instance: ' || notika._call(v_corrected);
  end loop;

  if spec.name not like '%:cancel' then
    select m into v_key from unnest(v_match) as m where m like '%=%' limit 1;
    if found then
      v_corrected.match := notika._match_keys(v_match);
      raise exception 'match of source "%" has "%"', spec.name, v_key
        using errcode = 'invalid_parameter_value',
              detail = 'What a wait compares with, it says itself; only a source called cancel names '
                       'columns of the run''s own event.',
              hint = 'Write: ' || notika._call(v_corrected);
    end if;
    return v_match;
  end if;

  select w.* into v_workflow
    from notika.workflow as w
   where w.name = notika._workflow_of(spec.name) and w.unpublished_at is null;
  if found then
    v_corrected.match := v_match;
    perform notika._check_cancel(v_workflow, v_corrected);
  end if;
  return v_match;
end;
$$;

comment on function notika._check_match(notika.workflow, text[]) is
  'What a source compares, in order, or an error if that is not among its columns.';

create or replace function notika._check_cancel(spec notika.workflow, source notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_corrected notika.workflow := _check_cancel.spec;
  v_key text;
begin
  select k into v_key
    from unnest(notika._run_keys(source.match)) as k
   where not case
           when spec.columns is not null then k = any (spec.columns)
           else exists (
             select from pg_attribute as a
              where a.attrelid = spec.relation
                and a.attname = k and a.attnum > 0 and not a.attisdropped
           )
         end;
  if found then
    v_corrected.columns := spec.columns || v_key;
    raise exception 'source "%" compares with "%", which workflow "%" does not publish',
      source.name, v_key, spec.name
      using errcode = 'invalid_parameter_value',
            detail = format('Of the source it is compared with %s.',
                            array_to_string(notika._match_keys(source.match), ', ')),
            hint = case when spec.columns is not null
                        then 'Publish it, or unpublish the source first: '
                             || notika._call(v_corrected)
                        else 'Name a column of the table: match => ''{'
                             || (notika._match_keys(source.match))[1] || '=id}''.' end;
  end if;
end;
$$;

comment on function notika._check_cancel(notika.workflow, notika.workflow) is
  'Refuses a source that cancels runs by a column that their events do not carry.';

create or replace function notika._wants_pins(guard text)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- A pin refuses, which a guard that only warns is not there for: event triggers see to that.
  select _wants_pins.guard = 'block' or notika._has_event_triggers();
$$;

comment on function notika._wants_pins(text) is
  'Whether the functions of a workflow that is whole pin its columns.';

create or replace function notika._specify(
  caller name,
  workflow text,
  table_name text,
  operations text[],
  columns text[],
  watch text[],
  condition text,
  function oid,
  guard text,
  on_rename text,
  match text[]
)
  returns notika.workflow
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
  v_corrected notika.workflow;
begin
  v_spec.name := _specify.workflow;
  v_spec.table_name := _specify.table_name;
  v_spec.condition := nullif(btrim(_specify.condition), '');
  v_spec.guard := _specify.guard;
  v_spec.on_rename := _specify.on_rename;
  select array_agg(k.name order by k.place) into v_spec.columns
    from (
      select u.name, min(u.place) as place
        from unnest(_specify.columns) with ordinality as u (name, place)
       group by u.name
    ) as k;
  select array_agg(distinct u.name) into v_spec.watch from unnest(_specify.watch) as u (name);
  select array_agg(o.name order by o.place) into v_spec.operations
    from unnest('{insert,update,delete}'::text[]) with ordinality as o (name, place)
   where o.name = any (select lower(btrim(u)) from unnest(_specify.operations) as u);

  v_corrected := v_spec;
  if v_spec.name is null or v_spec.name !~ '^[A-Za-z][A-Za-z0-9_-]{0,62}(:[A-Za-z][A-Za-z0-9_-]{0,62})?$'
  then
    v_corrected.name := coalesce(
      nullif(btrim(regexp_replace(left(v_spec.name, 63), '[^A-Za-z0-9_-]+', '_', 'g'), '_'), ''),
      'my_workflow');
    if v_corrected.name ~ '^[^A-Za-z]' then
      v_corrected.name := left('w' || v_corrected.name, 63);
    end if;
    raise exception 'workflow name "%" is not valid', coalesce(v_spec.name, 'null')
      using errcode = 'invalid_name',
            detail = 'It is the name of the task''s file: up to 63 letters, digits, _ and -, '
                     'of which the first is a letter. What its runs wait for is published '
                     'as workflow:source.',
            hint = 'For instance: ' || notika._call(v_corrected);
  end if;

  if v_spec.operations is null
     or exists (
       select from unnest(_specify.operations) as u
        where coalesce(lower(btrim(u)) <> all ('{insert,update,delete}'), true)
     )
  then
    v_corrected.operations := coalesce(v_spec.operations, '{insert}');
    raise exception 'operations % of workflow "%" are not valid',
      coalesce(_specify.operations::text, 'null'), v_spec.name
      using errcode = 'invalid_parameter_value',
            detail = 'At least one of insert, update and delete is needed; truncate has no rows.',
            hint = 'For instance: ' || notika._call(v_corrected);
  end if;
  if v_spec.guard is null or v_spec.guard not in ('block', 'warn', 'off') then
    v_corrected.guard := 'block';
    raise exception 'guard "%" is not block, warn or off', coalesce(v_spec.guard, 'null')
      using errcode = 'invalid_parameter_value',
            hint = 'For instance: ' || notika._call(v_corrected, shown => 'guard');
  end if;
  if v_spec.on_rename is null or v_spec.on_rename not in ('follow', 'block') then
    v_corrected.on_rename := 'follow';
    raise exception 'on_rename "%" is not follow or block', coalesce(v_spec.on_rename, 'null')
      using errcode = 'invalid_parameter_value',
            hint = 'For instance: ' || notika._call(v_corrected, shown => 'on_rename');
  end if;

  v_spec.relation := notika._find_table(v_spec);
  v_spec.table_name := notika._quoted(v_spec.relation);

  perform notika._check_columns(v_spec, 'columns', coalesce(v_spec.columns, _specify.columns));
  perform notika._check_columns(v_spec, 'watch', coalesce(v_spec.watch, _specify.watch));
  if v_spec.watch is not null and 'update' <> all (v_spec.operations) then
    v_corrected := v_spec;
    v_corrected.operations := v_spec.operations || '{update}';
    raise exception 'watch of workflow "%" has no meaning without update', v_spec.name
      using errcode = 'invalid_parameter_value',
            hint = 'Add update, or leave watch out: ' || notika._call(v_corrected);
  end if;
  perform notika._check_rights(v_spec, _specify.caller);
  if v_spec.condition is not null then
    select c.condition_sql, c.condition_uses into v_spec.condition_sql, v_spec.condition_uses
      from notika._take_condition(v_spec, _specify.caller, _specify.function) as c;
  end if;
  v_spec.match := notika._check_match(v_spec, _specify.match);
  v_spec.column_names := v_spec.columns;
  v_spec.is_pinned := notika._wants_pins(v_spec.guard);
  return v_spec;
end;
$$;

comment on function
  notika._specify(name, text, text, text[], text[], text[], text, oid, text, text, text[]) is
  'Makes a workflow''s row of what publish is given, or says what would be right instead.';

create or replace function notika._compared(spec notika.workflow)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when notika._workflow_of((spec).name) is not null then notika._match_keys((spec).match)
    else (
      select notika._run_keys(c.match)
        from notika.workflow as c
       where c.name = (spec).name || ':cancel' and c.unpublished_at is null
    )
  end;
$$;

comment on function notika._compared(notika.workflow) is
  'The columns that every event of a workflow or source has to carry, because waits compare them.';

create or replace function notika._locked(relation regclass)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- The trigger of a partitioned table is made on each of its partitions, too.
  return concat_ws(', ', notika._quoted(_locked.relation), (
    select string_agg(notika._quoted(p.relid), ', ' order by p.level, notika._quoted(p.relid))
      from pg_partition_tree(_locked.relation) as p
     where p.level > 0
  ));
end;
$$;

comment on function notika._locked(regclass) is
  'The tables that are locked by who makes or drops a trigger on this one: its partitions, too.';

create or replace function notika._statements(spec notika.workflow)
  returns table (statement text, lock text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
as $$
begin
  return query
    with family (relation, name) as (
      select f.relation, notika._quoted(f.relation)
        from notika._family((spec).relation) as f (relation)
    )
    select s.statement, s.lock
      from (
        -- One for each table of the family: a child that leaves it goes on by itself.
        select 1, f.name,
               notika._payload_definition((spec).workflow_id, f.relation, (spec).columns,
                                          (spec).column_names),
               'access share on ' || f.name
          from family as f
         where (spec).columns is not null and (spec).is_pinned
        union all
        select 2, f.name,
               format('revoke execute on function notika.payload_%s(%s) from public',
                      (spec).workflow_id, f.name),
               null
          from family as f
         where (spec).columns is not null and (spec).is_pinned
        union all
        select 2, null,
               format(E'create or replace function notika.payload_%s(r record)\n'
                      '  returns pg_catalog.json\n'
                      '  language plpgsql\n'
                      '  immutable\n'
                      'as ''begin return null; end''', (spec).workflow_id),
               null
         where notika._has_fallback(spec)
        union all
        select 3, null,
               format('revoke execute on function notika.payload_%s(record) from public',
                      (spec).workflow_id),
               null
         where notika._has_fallback(spec)
        union all
        select 4, null,
               notika._capture_definition(spec),
               null
        union all
        select 5, null,
               format('revoke execute on function notika._capture_%s() from public',
                      (spec).workflow_id),
               null
        union all
        select 6, null,
               notika._passes_definition(spec),
               null
         where (spec).condition is not null and not (spec).is_pinned
        union all
        select 6, null,
               notika._truncate_definition((spec).workflow_id),
               null
         where notika._notices_truncate(spec)
        union all
        select 7, null,
               format('revoke execute on function notika._truncated_%s() from public',
                      (spec).workflow_id),
               null
         where notika._notices_truncate(spec)
        union all
        select 8, f.name || o.name,
               notika._trigger_definition(spec, f.relation, o.name),
               'share row exclusive on ' || notika._locked(f.relation)
          from family as f
         cross join unnest((spec).operations) as o (name)
        union all
        select 8, f.name || 'truncate',
               notika._truncate_trigger((spec).workflow_id, f.relation),
               'share row exclusive on ' || f.name
          from family as f
         where notika._notices_truncate(spec)
      ) as s (place, name, statement, lock)
     order by s.place, s.name;
end;
$$;

comment on function notika._statements(notika.workflow) is
  'The statements that make what a workflow consists of, and the locks they take.';

create or replace function notika._definition(spec notika.workflow)
  returns text[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select array(select s.statement from notika._statements(_definition.spec) as s)
  );
end;
$$;

comment on function notika._definition(notika.workflow) is
  'The statements that make what a workflow consists of.';

create or replace function notika._captures(spec notika.workflow)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce(bool_and(exists (
           select from pg_trigger as t
            where t.tgrelid = f.relation
              and t.tgname = format('notika_%s_%s', (spec).workflow_id, o.name)
              and t.tgfoid = to_regprocedure(format('notika._capture_%s()', (spec).workflow_id))
              and t.tgenabled in ('O', 'A')
         )), false)
    from notika._family((spec).relation) as f (relation)
   cross join unnest((spec).operations) as o (name);
$$;

comment on function notika._captures(notika.workflow) is
  'Whether all triggers of a workflow are there and enabled.';

create or replace function notika._generated(workflow_id integer)
  returns setof regprocedure
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select p.oid::regprocedure
      from pg_proc as p
     where p.pronamespace = 'notika'::regnamespace
       and p.proname in (format('_capture_%s', _generated.workflow_id),
                         format('_passes_%s', _generated.workflow_id),
                         format('_truncated_%s', _generated.workflow_id),
                         format('payload_%s', _generated.workflow_id))
     order by p.proname, p.oid;
end;
$$;

comment on function notika._generated(integer) is 'The functions that publish made for a workflow.';

create or replace function notika._payload_function(workflow_id integer, relation oid)
  returns regprocedure
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
    -- Not by its name: that asks for rights to the schema of the table.
  return (
    select p.oid::regprocedure
      from pg_proc as p
      join pg_type as t on t.oid = p.proargtypes[0]
     where p.pronamespace = 'notika'::regnamespace
       and p.proname = format('payload_%s', _payload_function.workflow_id)
       and t.typrelid = _payload_function.relation
  );
end;
$$;

comment on function notika._payload_function(integer, oid) is
  'The function that makes the payload of a workflow from the rows of a table.';

create or replace function notika._triggers(workflow_id integer)
  returns table (relation regclass, name name)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
    -- pg_trigger has no index by function.
  return query
    select t.tgrelid::regclass, t.tgname
      from pg_depend as d
      join pg_trigger as t on t.oid = d.objid
     where d.refclassid = 'pg_proc'::regclass
       and d.refobjid = to_regprocedure(format('notika._capture_%s()', _triggers.workflow_id))
       and d.classid = 'pg_trigger'::regclass
       and t.tgparentid = 0 and t.tgfoid = d.refobjid;
end;
$$;

comment on function notika._triggers(integer) is
  'The triggers that publish made for a workflow, without those of partitions.';

create or replace function notika._steps(
  before notika.workflow,
  after notika.workflow,
  with_locks boolean default true
)
  returns table (statement text, lock text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_function regprocedure;
  v_table regclass;
  v_left regclass[] := array[]::regclass[];
  v_trigger record;
begin
  if before.relation = after.relation and before.definition = after.definition
     and notika._captures(before) and notika._is_complete(after)
     and notika._has_truncate_triggers(after)
  then
    return;
  end if;

  -- What is left on tables that are not, or not any more, those of the workflow.  Only the owner of
  -- a table may drop a trigger on it, but whoever owns a function may drop it with its triggers.
  for v_function, v_table in
    select p.oid::regprocedure, t.typrelid::regclass
      from notika._generated(after.workflow_id) as g (function)
      join pg_proc as p on p.oid = g.function and p.proname = format('payload_%s', after.workflow_id)
      join pg_type as t on t.oid = p.proargtypes[0]
     where t.typrelid <> 0 -- the fallback
       and t.typrelid not in (select f from notika._family(after.relation) as f)
     order by notika._quoted(t.typrelid)
  loop
    statement := format('drop function %s cascade', v_function);
    lock := 'access exclusive on ' || notika._locked(v_table);
    return next;
    v_left := v_left || v_table;
  end loop;
  if to_regprocedure(format('notika._truncated_%s()', after.workflow_id)) is not null
     and not notika._truncates_fit(after)
  then
    statement := format('drop function notika._truncated_%s() cascade', after.workflow_id);
    lock := 'access exclusive on ' || (
      select string_agg(t.name, ', ' order by t.name) from notika._truncate_tables(after.workflow_id) as t (name));
    return next;
  end if;
  for v_trigger in
    select t.relation, t.name, c.relowner
      from notika._triggers(after.workflow_id) as t
      join pg_class as c on c.oid = t.relation
     where (t.relation, t.name) not in (
         select f.relation, format('notika_%s_%s', after.workflow_id, o.name)
           from notika._family(after.relation) as f (relation)
          cross join unnest(after.operations) as o (name)
       )
     order by notika._quoted(t.relation), t.name -- locked in the order in which everybody locks them
  loop
    if not pg_has_role(v_trigger.relowner, 'usage') then
      return query
        select format('drop function %s cascade', g.function),
               'access exclusive on ' || (
                 select string_agg(distinct notika._locked(t.relation), ', ')
                   from notika._triggers(after.workflow_id) as t
               )
          from notika._generated(after.workflow_id) as g (function)
         where g.function = to_regprocedure(format('notika._capture_%s()', after.workflow_id));
      exit;
    end if;
    -- It may go along with the payload function.
    statement := format('drop trigger %s%I on %s',
                        case when v_trigger.relation = any (v_left) then 'if exists ' end,
                        v_trigger.name, notika._quoted(v_trigger.relation));
    lock := 'access exclusive on ' || notika._locked(v_trigger.relation);
    return next;
  end loop;

  if with_locks then
    return query select * from notika._statements(after);
  else
    return query select d, null from unnest(after.definition) as d;
  end if;

  return query
    select format('drop function %s', g.function), null::text
      from notika._generated(after.workflow_id) as g (function)
      join pg_proc as p on p.oid = g.function
     where p.proname = format('_passes_%s', after.workflow_id)
       and (after.is_pinned or after.condition is null)
        or p.proname = format('payload_%s', after.workflow_id)
       and (not after.is_pinned or after.columns is null
            or p.proargtypes[0] = 'record'::regtype and not notika._has_fallback(after))
       and (
         select t.typrelid from pg_type as t where t.oid = p.proargtypes[0]
       ) <> all (v_left);
end;
$$;

comment on function notika._steps(notika.workflow, notika.workflow, boolean) is
  'The statements that lead from one definition of a workflow to another; none if they are equal.';

create or replace function notika._always_enabled(workflow_id integer)
  returns text[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return array(
    select format('%I on %s', t.name, notika._quoted(t.relation))
      from notika._triggers(_always_enabled.workflow_id) as t
      join pg_trigger as g on g.tgrelid = t.relation and g.tgname = t.name and g.tgenabled = 'A'
  );
end;
$$;

comment on function notika._always_enabled(integer) is
  'Which triggers of a workflow somebody has enabled for changes that replication brings, too.';

create or replace function notika._enable_always(workflow_id integer, triggers text[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_statement text;
begin
  -- Kept even if what follows is not for Notika's owner: the owner of the table enables the new ones.
  update notika.workflow as w
     set fires_always = true
   where w.workflow_id = _enable_always.workflow_id
     and not w.fires_always and _enable_always.triggers <> '{}';

  begin
    for v_statement in
      select format('alter table %s enable always trigger %I', notika._quoted(t.relation), t.name)
        from notika._triggers(_enable_always.workflow_id) as t
       where format('%I on %s', t.name, notika._quoted(t.relation)) = any (_enable_always.triggers)
         and format('%I on %s', t.name, notika._quoted(t.relation))
             <> all (notika._always_enabled(_enable_always.workflow_id))
    loop
      execute v_statement;
    end loop;
  exception when insufficient_privilege or object_in_use then
    -- That takes the owner of the table, and that nothing waits for the end of the transaction.
    raise warning 'changes that replication brings do not wake a workflow any more: its trigger was replaced'
      using hint = format('Run, as the owner of the table: %s;', v_statement);
  end;
end;
$$;

comment on function notika._enable_always(integer, text[]) is
  'Enables triggers of a workflow again as they were before they were replaced.';

create or replace function notika._apply(before notika.workflow, after notika.workflow)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set lc_monetary = 'C' -- as what it parses was printed
  set client_min_messages = warning -- what is dropped along is what was meant
as $$
declare
  v_always text[] := notika._always_enabled(after.workflow_id);
  v_statement text;
  v_count integer := 0;
  v_message text;
  v_detail text;
  v_hint text;
begin
  for v_statement in select s.statement from notika._steps(before, after, false) as s loop
    if v_count = 0 and after.is_pinned then
      perform notika._expect_meaning(after);
    end if;
    execute v_statement;
    v_count := v_count + 1;
  end loop;
  if v_count > 0 then
    perform notika._check_payload_code(after.workflow_id);
    perform notika._expect_as_read(after);
  end if;
  perform notika._settle_capture_rights(after.workflow_id, after.relation);
  if v_always <> '{}' and v_count > 0 then
    perform notika._enable_always(after.workflow_id, v_always);
  end if;
  return v_count;
exception
  when lock_not_available or deadlock_detected or sqlstate 'NK002' then
    raise;
  when others then
    get stacked diagnostics
      v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
    raise exception 'cannot publish workflow "%" on %: %', after.name, after.table_name, v_message
      using errcode = sqlstate,
            detail = concat_ws(E'\n', nullif(v_detail, ''), 'Statement: ' || v_statement),
            hint = coalesce(
              nullif(v_hint, ''),
              'See what it would do: ' || replace(
                notika._call(after), 'select notika.publish(', 'select * from notika.plan(')
            );
end;
$$;

comment on function notika._apply(notika.workflow, notika.workflow) is
  'Takes the steps from one definition of a workflow to another and says how many there were.';

create or replace function notika._refuse_locked(what text, workflow text, table_name text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'cannot % workflow "%": table % is locked', what, workflow, table_name
    using errcode = 'lock_not_available',
          detail = format('Gave up after %s; waiting longer would block the application.',
                          notika._lock_timeout('3s')),
          hint = format('Try again. Who holds it: select pid, mode from pg_locks '
                        'where relation = %L::regclass and granted;', table_name);
end;
$$;

comment on function notika._refuse_locked(text, text, text) is
  'Says that a table, or the workflow itself, was locked for too long, as an error.';

create or replace function notika._as_called(
  workflow text,
  table_name text,
  operations text[],
  columns text[],
  watch text[],
  condition text,
  guard text,
  on_rename text,
  match text[]
)
  returns notika.workflow
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_call notika.workflow;
begin
  v_call.name := _as_called.workflow;
  v_call.table_name := _as_called.table_name;
  v_call.operations := _as_called.operations;
  v_call.columns := _as_called.columns;
  v_call.watch := _as_called.watch;
  v_call.condition := nullif(btrim(_as_called.condition), '');
  v_call.guard := _as_called.guard;
  v_call.on_rename := _as_called.on_rename;
  v_call.options := '{}';
  v_call.match := _as_called.match;
  begin
    v_call.relation := notika._table(_as_called.table_name);
  exception when invalid_parameter_value then
    v_call.relation := null; -- which is said where all else is said
  end;
  return v_call;
end;
$$;

comment on function notika._as_called(text, text, text[], text[], text[], text, text, text, text[]) is
  'A workflow as the arguments of publish describe it, right or wrong.';

create or replace function notika._request_of(call notika.workflow, options jsonb, function regprocedure, given jsonb)
  returns jsonb
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'workflow', (call).name, 'table_name', (call).table_name, 'operations', (call).operations,
    'columns', (call).columns, 'watch', (call).watch, 'condition', (call).condition,
    'guard', (call).guard, 'on_rename', (call).on_rename, 'match', (call).match,
    'options', _request_of.options, 'function', _request_of.function::oid::bigint, 'given', _request_of.given);
$$;

comment on function notika._request_of(notika.workflow, jsonb, regprocedure, jsonb) is
  'The arguments of publish as a request has them.';

create or replace function notika._specify(caller name, request jsonb)
  returns notika.workflow
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_request record;
begin
  select r.* into v_request
    from jsonb_to_record(_specify.request) as r (
           workflow text, table_name text, operations text[], columns text[], watch text[],
           condition text, function oid, guard text, on_rename text, match text[]);
  return notika._specify(
    _specify.caller, v_request.workflow, v_request.table_name, v_request.operations, v_request.columns,
    v_request.watch, v_request.condition, v_request.function, v_request.guard, v_request.on_rename,
    v_request.match);
end;
$$;

comment on function notika._specify(name, jsonb) is 'Makes a workflow''s row of a request to publish it.';

create or replace function notika._plan(caller name, request jsonb)
  returns table (statement text, lock text)
  language plpgsql
  volatile
  security definer -- it changes nothing, and tells nothing that the catalog does not
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_before notika.workflow;
  v_after notika.workflow := notika._specify(_plan.caller, _plan.request);
begin
  select w.* into v_before from notika.workflow as w where w.name = v_after.name;
  v_after.workflow_id := coalesce(
    v_before.workflow_id,
    -- The id that publish would draw now.
    coalesce(pg_sequence_last_value(
      pg_get_serial_sequence('notika.workflow', 'workflow_id')::regclass), 0) + 1
  );
  v_after.fires_always := v_before.fires_always;
  v_after.capture := notika._form(v_after);
  v_after.definition := notika._definition(v_after);
  v_after.options := notika._check_options(
    v_after, coalesce(nullif(_plan.request -> 'options', 'null'), v_before.options, '{}'));
  return query select s.statement || ';', s.lock from notika._steps(v_before, v_after) as s;
  if v_after.options <> coalesce(v_before.options, '{}') then
    return query
      select format('select notika.configure(%L, %L);', v_after.name, v_after.options), null::text;
  end if;
end;
$$;

comment on function notika._plan(name, jsonb) is
  'What publishing would do for a caller, who is taken at his word: nothing is done.';

create or replace function notika.plan(
  workflow text,
  table_name text,
  operations text[] default '{insert}',
  columns text[] default null,
  watch text[] default null,
  condition text default null,
  guard text default 'block',
  on_rename text default 'follow',
  options jsonb default null,
  match text[] default null
)
  returns table (statement text, lock text)
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_call notika.workflow := notika._as_called(
    plan.workflow, plan.table_name, plan.operations, plan.columns, plan.watch, plan.condition,
    plan.guard, plan.on_rename, plan.match);
  v_function regprocedure;
begin
  perform set_config('lock_timeout', notika._lock_timeout('3s'), true);
  if v_call.condition is not null and v_call.relation is not null then
    v_function := notika._read_condition(v_call);
  end if;
  if v_call.relation is not null then
    return query
      select format('grant %s on %s to %I;', n.privilege, n.object, notika._owner()), null::text
        from notika._needed_rights(v_call.relation, v_function) as n
       where not n.is_had and (n.may_grant or n.privilege <> 'select');
  end if;
  return query
    select p.statement, p.lock
      from notika._plan(current_user, notika._request_of(v_call, plan.options, v_function, null)) as p;
  if v_function is not null then
    execute 'drop function pg_temp.notika_condition()';
  end if;
  perform set_config('lock_timeout', v_before, true);
exception when lock_not_available then
  perform notika._refuse_locked('plan', plan.workflow, plan.table_name);
end;
$$;

comment on function
  notika.plan(text, text, text[], text[], text[], text, text, text, jsonb, text[]) is
  'What publish would do with the same arguments: what it would grant, its statements and the locks '
  'they take. Changes nothing; no rows: publish would have nothing to do.';

create or replace function notika.publish(
  workflow text,
  table_name text,
  operations text[] default '{insert}',
  columns text[] default null,
  watch text[] default null,
  condition text default null,
  guard text default 'block',
  on_rename text default 'follow',
  options jsonb default null,
  match text[] default null
)
  returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_call notika.workflow := notika._as_called(
    publish.workflow, publish.table_name, publish.operations, publish.columns, publish.watch,
    publish.condition, publish.guard, publish.on_rename, publish.match);
  v_function regprocedure;
  v_given jsonb;
  v_outcome text;
begin
  perform set_config('lock_timeout', notika._lock_timeout('3s'), true);
  -- What the caller alone may do, he does: read his text, and grant what is his.
  if v_call.condition is not null and v_call.relation is not null then
    v_function := notika._read_condition(v_call);
  end if;
  if v_call.relation is not null then
    v_given := notika._grant_missing(v_call.relation, v_function);
  end if;
  v_outcome := notika._ask_shortly(
    'publish', notika._request_of(v_call, publish.options, v_function, v_given)) #>> '{}';
  if v_function is not null then
    execute 'drop function pg_temp.notika_condition()';
  end if;
  perform set_config('lock_timeout', v_before, true);
  return v_outcome;
exception when lock_not_available then
  return notika._refuse_locked('publish', publish.workflow, publish.table_name);
end;
$$;

comment on function
  notika.publish(text, text, text[], text[], text[], text, text, text, jsonb, text[]) is
  'Wakes workflow on changes of table_name (schema.table). operations: of insert, update, delete; '
  'columns: what an event carries, null for the whole row; watch: an update counts when one of '
  'these changes; condition: SQL over new and old, read with the rights of the caller; guard: block, '
  'warn, off; on_rename: follow, block; options: see notika.configure, null leaves them as they are. '
  'A workflow called name:source is what the runs of name wait for, by the values of match. Grants '
  'the owner of Notika what it lacks on the table, where the caller may. Says published, changed or '
  'unchanged. Waits three seconds for its locks, or lock_timeout where that is less.';

create or replace function notika._do_publish(caller name, request jsonb)
  returns text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_before notika.workflow;
  v_after notika.workflow := notika._specify(_do_publish.caller, _do_publish.request);
  v_is_changed boolean;
begin
  perform notika._check_own_rights(v_after);
  perform notika._check_planning(v_after.relation, true);
  perform notika._check_workflow_of(v_after);
  if notika._workflow_of(v_after.name) is not null then
    perform notika._expect_decider(w, _do_publish.caller)
       from notika.workflow as w
      where w.name = notika._workflow_of(v_after.name);
  end if;

  -- One publisher of a workflow at a time; the row also hands out the id.
  insert into notika.workflow
    (name, table_name, operations, guard, on_rename, definition, unpublished_at)
  select v_after.name, v_after.table_name, v_after.operations, v_after.guard, v_after.on_rename,
         '{}', clock_timestamp()
   where not exists (select from notika.workflow as w where w.name = v_after.name)
  on conflict (name) do nothing;
  select w.* into v_before from notika.workflow as w where w.name = v_after.name for update;
  if v_before.unpublished_at is null then
    perform notika._expect_decider(v_before, _do_publish.caller);
  end if;
  v_after.workflow_id := v_before.workflow_id;
  v_after.given := notika._keep_given(v_before.given, _do_publish.request -> 'given', v_after);
  v_after.fires_always := v_before.fires_always;
  perform notika._hold_columns(v_after);
  v_after.capture := notika._form(v_after);
  v_after.definition := notika._definition(v_after);
  v_after.options := notika._check_options(
    v_after, coalesce(nullif(_do_publish.request -> 'options', 'null'), v_before.options));
  perform notika._set_busy(true);
  v_is_changed := notika._apply(v_before, v_after) > 0;
  perform notika._set_busy(false);

  update notika.workflow as w
     set table_name = v_after.table_name, -- and with it the relation
         operations = v_after.operations,
         columns = v_after.columns,
         column_names = v_after.column_names,
         watch = v_after.watch,
         condition = v_after.condition,
         condition_sql = v_after.condition_sql,
         condition_uses = v_after.condition_uses,
         capture = v_after.capture,
         guard = v_after.guard,
         on_rename = v_after.on_rename,
         definition = v_after.definition,
         is_pinned = v_after.is_pinned,
         options = v_after.options,
         match = v_after.match,
         given = v_after.given,
         broken_reason = null,
         unpublished_at = null,
         published_at = clock_timestamp(),
         published_by = _do_publish.caller,
         publisher_id = (select r.oid from pg_roles as r where r.rolname = _do_publish.caller)
   where w.workflow_id = v_after.workflow_id
     and (v_is_changed
          or w.broken_reason is not null
          or (w.definition, w.guard, w.on_rename, w.table_name, w.columns, w.watch, w.condition,
              w.condition_uses, w.options, w.match, w.given)
             is distinct from
             (v_after.definition, v_after.guard, v_after.on_rename, v_after.table_name,
              v_after.columns, v_after.watch, v_after.condition, v_after.condition_uses,
              v_after.options, v_after.match, v_after.given));
  v_is_changed := found;
  -- What this transaction did to the table before is settled by this, and a migration whose
  -- snapshot is older than this must not judge.
  perform notika._bind(v_after.workflow_id);
  delete from notika.guard_pending as p where p.workflow_id = v_after.workflow_id;
  update notika.guard_state as s set publications = s.publications + 1;

  if notika._workflow_of(v_after.name) is not null then
    perform notika._refresh_capture(notika._workflow_of(v_after.name));
    if v_before.unpublished_at is not null or v_before.match is distinct from v_after.match then
      perform notika._resound(v_after.workflow_id);
    end if;
  end if;

  -- The runs of a broken workflow are held.
  if v_before.broken_reason is not null and v_before.paused_at is null then
    perform notika._resume(v_after.name);
  end if;
  if v_after.options <> v_before.options then
    perform notika._set_schedule(v_after.workflow_id, v_after.options -> 'schedule');
    perform notika._advance(v_after.workflow_id);
  end if;

  return case
    when v_before.unpublished_at is not null then 'published'
    when v_is_changed then 'changed'
    else 'unchanged'
  end;
end;
$$;

comment on function notika._do_publish(name, jsonb) is 'Carries out publish for a caller.';

create or replace function notika._check_workflow_of(spec notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text := notika._workflow_of(spec.name);
  v_cancel notika.workflow;
begin
  if v_name is not null then
    if not exists (
      select from notika.workflow as w where w.name = v_name and w.unpublished_at is null
    ) then
      raise exception 'cannot publish source "%": workflow "%" is not published', spec.name, v_name
        using errcode = 'undefined_object',
              hint = format('Publish it first: select notika.publish(%L, ''<schema>.<table>'');',
                            v_name);
    end if;
    return;
  end if;

  select w.* into v_cancel
    from notika.workflow as w
   where w.name = spec.name || ':cancel' and w.unpublished_at is null;
  if found then
    perform notika._check_cancel(spec, v_cancel);
  end if;
end;
$$;

comment on function notika._check_workflow_of(notika.workflow) is
  'Refuses a source without its workflow, and a workflow without what its sources compare with.';

create or replace function notika._refresh_capture(workflow text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_workflow notika.workflow;
  v_statement text;
begin
  select w.* into v_workflow
    from notika.workflow as w
   where w.name = _refresh_capture.workflow
     and w.unpublished_at is null and w.broken_reason is null and w.table_name is not null
     for update;
  if not found then
    return;
  end if;

  v_statement := notika._capture_definition(v_workflow);
  if v_statement <> all (v_workflow.definition) then
    perform notika._set_busy(true);
    execute v_statement; -- the function alone: it takes no lock on the table
    perform notika._set_busy(false);
    update notika.workflow as w
       set definition = array(
             select case when d.statement ~ '^create or replace function notika\._capture_'
                         then v_statement else d.statement end
               from unnest(v_workflow.definition) with ordinality as d (statement, place)
              order by d.place
           )
     where w.workflow_id = v_workflow.workflow_id;
  end if;
end;
$$;

comment on function notika._refresh_capture(text) is
  'Lets the events of a workflow say what they could see, as long as it has sources.';

create or replace function notika._warn_of_waits(spec notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_count bigint;
begin
  select count(*) into v_count from notika.wait as w where w.source_id = (spec).workflow_id;
  if v_count > 0 then
    raise warning '% waits for "%" end with their timeouts only, while it is not published',
      v_count, (spec).name
      using hint = format('Publish it again, or end their runs: select notika.cancel(w.run_id) '
                          'from notika.wait as w where w.source_id = %s;', (spec).workflow_id);
  end if;
end;
$$;

comment on function notika._warn_of_waits(notika.workflow) is
  'Warns of runs that wait for a source that goes.';

create or replace function notika.unpublish(workflow text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before constant text := current_setting('lock_timeout');
begin
  perform set_config('lock_timeout', notika._lock_timeout('3s'), true);
  perform notika._revoke_given(
    notika._ask_shortly('unpublish', jsonb_build_object('workflow', unpublish.workflow)));
  perform set_config('lock_timeout', v_before, true);
exception when lock_not_available then
  perform notika._refuse_locked('unpublish', unpublish.workflow, (
    select w.table_name from notika.workflows as w where w.workflow = unpublish.workflow));
end;
$$;

comment on function notika.unpublish(text) is
  'Takes the triggers and functions of a workflow away, and those of its sources, and what publish '
  'granted for it where the caller may. What was captured before still runs.';

create or replace function notika._do_unpublish(caller name, workflow text)
  returns json
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set client_min_messages = warning -- the triggers that go along are what was meant
as $$
declare
  v_workflow_id integer;
  v_workflow notika.workflow;
  v_source text;
  v_unneeded jsonb := '[]'::jsonb;
begin
  -- A source may have gone along with its workflow a moment ago.
  if exists (
    select from notika.workflow as w
     where w.name = _do_unpublish.workflow and notika._workflow_of(w.name) is not null
       and w.unpublished_at is not null
  ) then
    return '[]'::json;
  end if;
  v_workflow_id := notika._published(_do_unpublish.workflow);
  select w.* into v_workflow
    from notika.workflow as w
   where w.workflow_id = v_workflow_id
     for update;
  perform notika._expect_decider(coalesce((
    select w from notika.workflow as w
     where w.name = notika._workflow_of(v_workflow.name) and notika._may_decide(w, _do_unpublish.caller)
  ), v_workflow), _do_unpublish.caller);
  for v_source in
    select s.name from notika.workflow as s
     where starts_with(s.name, _do_unpublish.workflow || ':') and s.unpublished_at is null
     order by s.name
  loop
    v_unneeded := v_unneeded || notika._unpublish(v_source)::jsonb;
  end loop;
  return v_unneeded || notika._unpublish(v_workflow.name)::jsonb;
end;
$$;

comment on function notika._do_unpublish(name, text) is
  'Carries out unpublish for a caller, and says what was granted for the workflow and is not needed.';

create or replace function notika._unpublish(workflow text)
  returns json
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow notika.workflow;
begin
  select w.* into v_workflow from notika.workflow as w where w.name = _unpublish.workflow for update;
  perform notika._warn_of_waits(v_workflow);
  perform notika._resume(v_workflow.name);

  perform notika._unpin(v_workflow.workflow_id);
  delete from notika.contract as c where c.workflow_id = v_workflow.workflow_id;
  delete from notika.contract_table as c where c.workflow_id = v_workflow.workflow_id;
  delete from notika.guard_pending as p where p.workflow_id = v_workflow.workflow_id;
  perform notika._set_schedule(v_workflow.workflow_id, null);
  perform notika._end_backfill(b.backfill_id, 'cancelled')
     from notika.backfill as b
    where b.workflow_id = v_workflow.workflow_id and b.finished_at is null;

  update notika.workflow as w
     set definition = '{}', options = w.options - 'schedule', broken_reason = null, given = '[]',
         fires_always = false, unpublished_at = clock_timestamp()
   where w.workflow_id = v_workflow.workflow_id;
  if notika._workflow_of(v_workflow.name) is not null then
    perform notika._refresh_capture(notika._workflow_of(v_workflow.name));
  end if;
  return notika._unneeded(v_workflow);
end;
$$;

comment on function notika._unpublish(text) is
  'Takes a workflow away, and says what was granted for it and is not needed any more.';
