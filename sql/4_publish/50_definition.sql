-- The objects that publish creates for a workflow: the statements, how they are compared with
-- existing objects, and how they are executed.

create or replace function notika._locked(relation regclass)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- The trigger of a partitioned table is created on each of its partitions too.
  return concat_ws(', ', notika._quoted(_locked.relation), (
    select string_agg(notika._quoted(p.relid), ', ' order by p.level, notika._quoted(p.relid))
      from pg_partition_tree(_locked.relation) as p
     where p.level > 0
  ));
end;
$$;

comment on function notika._locked(regclass) is
  'The tables that are locked when a trigger on this one is created or dropped: its partitions '
  'too.';

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
        -- One for each table of the family: a child that leaves the family keeps working.
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
  'The statements that create the objects of a workflow, and the locks they take.';

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
  'The statements that create the objects of a workflow.';

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
  'Whether all triggers of a workflow exist and are enabled.';

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

comment on function notika._generated(integer) is
  'The functions that publish created for a workflow.';

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
  'The triggers that publish created for a workflow, without those of partitions.';

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

  -- Triggers on tables that are not, or no longer, those of the workflow. Only the owner of a
  -- table may drop a trigger on it, but the owner of a function may drop it with its triggers.
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
     order by notika._quoted(t.relation), t.name -- all sessions lock them in this order
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
    -- It may be dropped with the payload function.
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
  'The triggers of a workflow that were enabled for replicated changes too.';

create or replace function notika._enable_always(workflow_id integer, triggers text[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_statement text;
begin
  -- Kept even if Notika's owner may not enable the new ones: the owner of the table enables them.
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
    -- That requires the owner of the table, and that no trigger event is pending.
    raise warning 'replicated changes no longer start a workflow: its trigger was replaced'
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
  set lc_monetary = 'C' -- as when the text was printed that it parses
  set client_min_messages = warning -- the drops that cascade are intended
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
                notika._publish_call(after), 'select notika.publish(', 'select * from notika.plan(')
            );
end;
$$;

comment on function notika._apply(notika.workflow, notika.workflow) is
  'Executes the statements that lead from one definition of a workflow to another, and returns '
  'their number.';

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
     -- Everything else that the trigger compares has the types of its columns.
     and not exists (
       select from pg_attribute as a
         join pg_type as y on y.oid = a.atttypid
        where u.kind = 'type' and a.attrelid = t.relation and u.oid in (y.oid, y.typelem)
     )
   limit 1;
  if found then
    raise exception 'the condition of workflow "%" changed its meaning while it was published: %',
      spec.name, v_other
      using errcode = 'NK002',
            hint = 'Publish it again: ' || notika._publish_call(spec);
  end if;
end;
$$;

comment on function notika._expect_as_read(notika.workflow) is
  'Raises an error if the condition in a trigger calls a function that the condition as it was '
  'read does not call.';

create or replace function notika._is_complete(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    with expected (relation, name) as (
      select f.relation::oid, format('notika_%s_%s', (spec).workflow_id, o.name)
        from notika._family((spec).relation) as f (relation)
       cross join unnest((spec).operations) as o (name)
    ), there (relation, name) as (
      select t.relation::oid, t.name::text from notika._triggers((spec).workflow_id) as t
    )
    select to_regprocedure(format('notika._capture_%s()', (spec).workflow_id)) is not null
       and not exists (
         (select e.relation, e.name from expected as e except select t.relation, t.name from there as t)
         union all
         (select t.relation, t.name from there as t except select e.relation, e.name from expected as e)
       )
       and (not (spec).is_pinned or (spec).columns is null or not exists (
         select e.relation from expected as e
         except
         select t.typrelid
           from pg_proc as p
           join pg_type as t on t.oid = p.proargtypes[0]
          where p.pronamespace = 'notika'::regnamespace
            and p.proname = format('payload_%s', (spec).workflow_id)
       ))
  );
end;
$$;

comment on function notika._is_complete(notika.workflow) is
  'Whether all functions and triggers of a workflow exist, and none elsewhere.';

create or replace function notika._unpin(workflow_id integer)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set client_min_messages = warning
as $$
declare
  v_function regprocedure;
begin
  perform notika._suspend_guard(true);
  for v_function in
    -- Naming an argument requires rights on its schema, so functions for which that fails come
    -- last.
    select g
      from notika._generated(_unpin.workflow_id) as g
      join pg_proc as p on p.oid = g
      left join pg_type as t on t.oid = p.proargtypes[0]
     order by has_schema_privilege(t.typnamespace, 'usage') is false, g::text
  loop
    -- By its name alone, if it is the last function of that name.
    execute format('drop function %s cascade', (
      select case when count(*) = 1 then format('notika.%I', p.proname) else v_function::text end
        from pg_proc as p
        join pg_proc as o on o.pronamespace = p.pronamespace and o.proname = p.proname
       where p.oid = v_function
       group by p.proname
    ));
  end loop;
  perform notika._suspend_guard(false);
  delete from notika.contract_key as k where k.workflow_id = _unpin.workflow_id;
end;
$$;

comment on function notika._unpin(integer) is 'Drops the functions and triggers of a workflow.';

create or replace function notika._renew_capture(before notika.workflow, after notika.workflow)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_statement text;
begin
  for v_statement in
    select notika._capture_definition(after)
     where to_regprocedure(format('notika._capture_%s()', after.workflow_id)) is not null
    union all
    -- For an owner that must not parse the condition, it is replaced by one that lets every row
    -- pass.
    select notika._passes_definition(after)
     where not after.is_pinned and after.condition is not null
       and to_regprocedure(format('notika._passes_%s(record, record)', after.workflow_id)) is not null
  loop
    continue when v_statement = any (before.definition);
    perform notika._suspend_guard(true);
    execute v_statement; -- only the function, so no lock on the table is taken
    perform notika._suspend_guard(false);
    update notika.workflow as w
       set definition = array(
             select case when split_part(d.statement, '(', 1) = split_part(v_statement, '(', 1)
                         then v_statement else d.statement end
               from unnest(w.definition) with ordinality as d (statement, place)
              order by d.place
           )
     where w.workflow_id = after.workflow_id;
  end loop;
end;
$$;

comment on function notika._renew_capture(notika.workflow, notika.workflow) is
  'Creates the trigger function of a workflow, and that of its condition, again if they would '
  'differ now.';

create or replace function notika._drop_captures(workflow_id integer)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set client_min_messages = warning -- the triggers are dropped by CASCADE
as $$
begin
  perform notika._suspend_guard(true); -- until _drop_notika has dropped the guard
  perform notika._unpin(_drop_captures.workflow_id);
  execute format('drop function if exists notika._capture_%1$s(), notika._truncated_%1$s() cascade',
                 _drop_captures.workflow_id);
end;
$$;

comment on function notika._drop_captures(integer) is
  'Drops the triggers and pins of a workflow, with the rights of the owner of Notika.';
