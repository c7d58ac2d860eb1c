-- The guard's judgement: event triggers find out which workflows a command touched, and a deferred
-- constraint trigger judges what the transaction leaves when it commits.

create or replace function notika._named_tables(statement text)
  returns setof regclass
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Good enough for help, not for a verdict: a table that is not recognised stays pinned.
  with named (parts) as (
    select regexp_match(
             m[1], '^\s*(?:("(?:[^"]|"")+"|[\w$]+)\s*\.\s*)?("(?:[^"]|"")+"|[\w$]+)')
      from regexp_matches(
             _named_tables.statement,
             '\m(?:alter|drop)\s+table\s+(?:if\s+exists\s+)?(?:only\s+)?([^;()]*)', 'gi') as d
     cross join lateral regexp_matches(d[1], '[^,]+', 'g') as m
  ), folded (schema_name, table_name) as (
    select case when n.parts[1] like '"%'
                then replace(substring(n.parts[1] from '^"(.*)"$'), '""', '"')
                else lower(n.parts[1]) end,
           case when n.parts[2] like '"%'
                then replace(substring(n.parts[2] from '^"(.*)"$'), '""', '"')
                else lower(n.parts[2]) end
      from named as n
  )
  select c.oid::regclass
    from folded as f
    join pg_class as c on c.relname = f.table_name and c.relkind in ('r', 'p')
    join pg_namespace as s on s.oid = c.relnamespace
   where s.nspname = f.schema_name
      -- The search path of the command is not to be seen from here.
      or f.schema_name is null and 1 = (
        select count(*) from pg_class as o where o.relname = f.table_name and o.relkind in ('r', 'p')
      );
$$;

comment on function notika._named_tables(text) is
  'The tables that ALTER TABLE and DROP TABLE in this text are about, as far as they are certain.';

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
  perform notika._set_busy(true);
  for v_function in select g from notika._generated(_unpin.workflow_id) as g loop
    execute format('drop function %s cascade', v_function);
  end loop;
  perform notika._set_busy(false);
end;
$$;

comment on function notika._unpin(integer) is
  'Takes the functions and triggers of a workflow away, and with them what pins its columns.';

create or replace function notika._summon(workflow_ids integer[], tag text, statement text)
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  insert into notika.guard_pending (workflow_id, tag, statement)
  select s.workflow_id, _summon.tag, left(_summon.statement, 400)
    from unnest(_summon.workflow_ids) as s (workflow_id)
   where not exists (
     select from notika.guard_pending as p
      where p.workflow_id = s.workflow_id and p.dropped is null
   );
$$;

comment on function notika._summon(integer[], text, text) is
  'Has workflows judged when the transaction commits.';

create or replace function notika._see_publications()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- With an old snapshot a workflow that was published since is not seen, and its table looks free.
  -- publish updates the row, so this fails with 40001 where that happened.
  if current_setting('transaction_isolation') <> 'read committed' then
    perform from notika.guard_state for share;
  end if;
end;
$$;

comment on function notika._see_publications() is
  'Fails in a transaction whose snapshot is older than the last publish.';

create or replace function notika._guard_start()
  returns event_trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_statement text := current_query();
  v_context text;
  v_workflow_id integer;
begin
  if exists (select from notika.guard_busy) then
    return;
  end if;
  perform notika._see_publications();
  -- A statement inside a function is not in the query, but in the context.
  get diagnostics v_context = pg_context;
  v_context := v_statement || ';' || v_context;
  if tg_tag = 'ALTER TABLE' and v_context !~* '\m(drop|type)\M' then
    return; -- nothing that a pin would refuse
  end if;

  for v_workflow_id in
    select w.workflow_id
      from notika.workflow as w
     where w.unpublished_at is null
       and w.relation in (select t from notika._named_tables(v_context) as t)
  loop
    perform notika._summon(array[v_workflow_id], tg_tag, v_statement);
    perform notika._unpin(v_workflow_id);
  end loop;
exception
  when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others then
    raise warning 'notika could not check %: % (%)', tg_tag, sqlerrm, sqlstate
      using hint = 'The command goes on. See what it left: select * from notika.check();';
end;
$$;

comment on function notika._guard_start() is
  'Event trigger: lets a command through that the pins would refuse, for the judgement at commit.';

create or replace function notika._guard_drop()
  returns event_trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from notika.guard_busy) then
    return;
  end if;
  perform notika._see_publications();

  insert into notika.guard_pending (workflow_id, tag, statement, dropped)
  select distinct on (w.workflow_id) w.workflow_id, tg_tag, left(current_query(), 400),
         case when d.original and d.objsubid = 0 and d.classid in ('pg_trigger'::regclass, 'pg_proc'::regclass)
              then d.object_identity end
    from pg_event_trigger_dropped_objects() as d
    join notika.workflow as w
      on w.unpublished_at is null
     and (
       d.classid = 'pg_class'::regclass and (
         d.objid = w.relation
         or exists (select from notika.contract_table as c
                     where c.workflow_id = w.workflow_id and c.relation = d.objid)
       )
       or d.classid = 'pg_trigger'::regclass
          and d.address_names[array_upper(d.address_names, 1)]
              = any (array(select format('notika_%s_%s', w.workflow_id, o) from unnest(w.operations) as o))
       or d.classid = 'pg_proc'::regclass and d.schema_name = 'notika'
          and d.address_names[2] in (format('_capture_%s', w.workflow_id), format('payload_%s', w.workflow_id))
     )
   order by w.workflow_id, 4 nulls last;
exception
  when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others then
    raise warning 'notika could not check %: % (%)', tg_tag, sqlerrm, sqlstate
      using hint = 'The command goes on. See what it left: select * from notika.check();';
end;
$$;

comment on function notika._guard_drop() is
  'Event trigger: notes the workflows whose tables, columns, triggers or functions were dropped.';

create or replace function notika._guard_end()
  returns event_trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_touched integer[];
  v_workflow_id integer;
begin
  if exists (select from notika.guard_busy) then
    return;
  end if;
  perform notika._see_publications();

  select array_agg(distinct t.workflow_id) into v_touched
    from (
      select c.workflow_id
        from pg_event_trigger_ddl_commands() as d
        join pg_class as r on r.oid = d.objid and d.classid = 'pg_class'::regclass
        join notika.contract_table as c on c.relation = r.oid
      union
      -- A partition or child that was attached, or a table that takes a published name.
      select w.workflow_id
        from pg_event_trigger_ddl_commands() as d
        join notika.workflow as w on w.unpublished_at is null
       where d.classid = 'pg_class'::regclass
         and (
           w.table_name = notika._quoted(d.objid)
           or exists (select from pg_inherits as i
                       where i.inhrelid = d.objid and i.inhparent = w.relation)
         )
      union
      select c.workflow_id
        from pg_event_trigger_ddl_commands() as d
        join notika.contract as c on d.classid = 'pg_type'::regclass and c.type = d.objid
      union
      select c.workflow_id
        from pg_event_trigger_ddl_commands() as d
        join pg_trigger as t on d.classid = 'pg_trigger'::regclass and t.oid = d.objid
        join notika.contract_table as c on c.relation = t.tgrelid
      union
      select c.workflow_id
        from pg_event_trigger_ddl_commands() as d
        join pg_rewrite as r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
        join notika.contract_table as c on c.relation = r.ev_class
      union
      select w.workflow_id
        from pg_event_trigger_ddl_commands() as d
        join pg_proc as p on d.classid = 'pg_proc'::regclass and p.oid = d.objid
        join notika.workflow as w on w.unpublished_at is null
       where p.pronamespace = 'notika'::regnamespace
         and p.proname in (format('_capture_%s', w.workflow_id), format('payload_%s', w.workflow_id))
      union
      select w.workflow_id
        from pg_event_trigger_ddl_commands() as d
        join pg_class as r on d.classid = 'pg_namespace'::regclass and r.relnamespace = d.objid
        join notika.workflow as w on w.relation = r.oid and w.unpublished_at is null
      union
      select p.workflow_id from notika.guard_pending as p
    ) as t;
  if v_touched is null then
    return;
  end if;

  foreach v_workflow_id in array v_touched loop
    continue when exists (
      select from notika.guard_pending as p where p.workflow_id = v_workflow_id and p.dropped is not null
    );
    perform notika._set_busy(true);
    perform notika._reconcile(v_workflow_id, left(current_query(), 400), false);
    perform notika._set_busy(false);
    if exists (
      select from notika.workflow as w, notika._findings(w) as f where w.workflow_id = v_workflow_id
    ) then
      perform notika._summon(array[v_workflow_id], tg_tag, current_query());
    end if;
  end loop;
exception
  when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others then
    raise warning 'notika could not check %: % (%)', tg_tag, sqlerrm, sqlstate
      using hint = 'The command goes on. See what it left: select * from notika.check();';
end;
$$;

comment on function notika._guard_end() is
  'Event trigger: follows renames at once, puts back what it can, and notes what is to be judged.';

create or replace function notika._guard_at_commit()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
  v_finding record;
  v_verdict text;
begin
  delete from notika.guard_pending as p where p.pending_id = new.pending_id;
  if exists (
    select from notika.guard_state as s where s.workflow_table <> 'notika.workflow'::regclass::oid
  ) then
    return null; -- a restored copy: check() binds it first
  end if;
  begin
    if new.dropped is null then
      perform notika._set_busy(true);
      perform notika._reconcile(new.workflow_id, new.statement, true);
      perform notika._set_busy(false);
    end if;
    select w.* into v_spec
      from notika.workflow as w
     where w.workflow_id = new.workflow_id and w.unpublished_at is null;
    if not found or v_spec.broken_reason is not null then
      return null;
    end if;

    for v_finding in
      select f.* from notika._findings(v_spec) as f
       order by f.kind = 'trigger_dropped', notika._is_breaking(f.kind) desc
    loop
      v_verdict := notika._verdict(v_spec, v_finding.kind);
      if v_verdict = 'blocked' then
        perform notika._refuse(v_spec, v_finding.kind, v_finding.object, v_finding.expected,
                               v_finding.actual, new.statement);
      end if;
      perform notika._note(v_spec, v_verdict, v_finding.kind, v_finding.object,
                           v_finding.expected, v_finding.actual, new.statement);
    end loop;
  exception
    when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
      raise;
    when others then
      raise warning 'notika could not check %: % (%)', new.tag, sqlerrm, sqlstate
        using hint = 'The command goes on. See what it left: select * from notika.check();';
  end;
  return null;
end;
$$;

comment on function notika._guard_at_commit() is
  'Judges what a transaction leaves of a workflow''s contract, when it commits.';

drop trigger if exists guard_at_commit on notika.guard_pending;
create constraint trigger guard_at_commit
  after insert on notika.guard_pending
  deferrable initially deferred
  for each row
  execute function notika._guard_at_commit();

create or replace function notika._verdict(spec notika.workflow, kind text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case
           when exists (
             select from notika.maintenance as m
              where m.ended_at is null and m.ends_at > clock_timestamp()
           ) or exists (
             select from notika.guard_log as l
              where l.xid = pg_current_xact_id_if_assigned()
                and l.workflow = (spec).name and l.verdict = 'allowed' and l.reason is not null
           ) then 'allowed'
           when not notika._is_breaking(kind) and not notika._is_rename(kind) then 'warned'
           when notika._is_rename(kind) and (spec).on_rename = 'follow' then 'followed'
           when (spec).guard = 'off' then 'ignored'
           when (spec).guard = 'warn' then 'warned'
           else 'blocked'
         end;
$$;

comment on function notika._verdict(notika.workflow, text) is
  'What a finding of this kind means for a workflow, here and now.';

create or replace function notika._refuse(
  spec notika.workflow,
  kind text,
  object text,
  expected text,
  actual text,
  statement text
)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_column text := case when kind in ('column_dropped', 'column_renamed', 'type_changed', 'label_renamed')
                        then replace(object, spec.table_name || '.', '') end;
begin
  raise exception '%', case kind
      when 'table_dropped' then format('cannot drop table %s', object)
      when 'table_renamed' then format('cannot rename table %s to %s', object, actual)
      when 'column_dropped' then format('cannot drop column "%s" of table %s', v_column, spec.table_name)
      when 'column_renamed' then format('cannot rename column "%s" of table %s to "%s"',
                                        v_column, spec.table_name, actual)
      when 'type_changed' then format('cannot change the type of column "%s" of table %s from %s to %s',
                                      v_column, spec.table_name, expected, actual)
      when 'label_renamed' then format('cannot rename a label of the type of column "%s" of table %s',
                                       v_column, spec.table_name)
      else format('cannot drop trigger %s', object)
    end || format(' because workflow "%s" uses it', spec.name)
    using errcode = 'NK001',
          detail = format(E'Workflow "%s" is published on %s for %s%s.\nStatement: %s',
                     spec.name, spec.table_name, array_to_string(spec.operations, ', '),
                     coalesce(format(' with the columns %s', array_to_string(spec.columns, ', ')), ''),
                     statement),
          hint = format('In the same transaction publish it anew, or run notika.unpublish(%1$L), or '
                        'notika.allow_breaking_change(%1$L, ''<reason>''). Tools without '
                        'transactions: notika.begin_maintenance(''<reason>'').', spec.name),
          table = spec.table_name,
          column = coalesce(v_column, '');
end;
$$;

comment on function notika._refuse(notika.workflow, text, text, text, text, text) is
  'Refuses what breaks a workflow, and names the ways out.';

create or replace function notika._note(
  spec notika.workflow,
  verdict text,
  kind text,
  object text,
  expected text,
  actual text,
  statement text
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- What was said since it was published need not be said again.
  if exists (
    select from notika.guard_log as l
     where l.workflow = spec.name and l.at > spec.published_at
       and (l.kind, l.object, l.actual) is not distinct from (_note.kind, _note.object, _note.actual)
  ) then
    return;
  end if;

  insert into notika.guard_log (workflow, verdict, kind, object, expected, actual, statement)
  values (spec.name, _note.verdict, _note.kind, _note.object, _note.expected, _note.actual,
          _note.statement);
  if verdict = 'warned' then
    raise warning 'workflow "%": % %', spec.name, replace(kind, '_', ' '), object
      using detail = format('Expected %s, found %s.', coalesce(expected, 'nothing'),
                            coalesce(actual, 'nothing')),
            hint = format('See: select * from notika.health where workflow = %L;', spec.name);
  end if;

  if notika._is_breaking(kind) or notika._is_rename(kind) and verdict <> 'followed' then
    perform notika._break(spec.workflow_id, format('%s: %s', replace(kind, '_', ' '), object));
  elsif kind = 'type_widened' then
    update notika.contract as c
       set type_name = format_type(a.atttypid, a.atttypmod), type = a.atttypid, typmod = a.atttypmod
      from pg_attribute as a
     where c.workflow_id = spec.workflow_id and a.attrelid = spec.relation and a.attnum = c.attnum;
  end if;
end;
$$;

comment on function notika._note(notika.workflow, text, text, text, text, text, text) is
  'Writes a finding down, says it if it is a warning, and marks the workflow if it cannot go on.';

create or replace function notika._break(workflow_id integer, reason text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
  v_after notika.workflow;
begin
  update notika.workflow as w
     set broken_reason = coalesce(w.broken_reason, _break.reason)
   where w.workflow_id = _break.workflow_id
  returning w.* into v_spec;
  perform notika._hold_jobs();

  -- Its events are wanted all the same: with the columns that are left, and without a condition
  -- that cannot be evaluated any more.
  if notika._quoted(v_spec.relation) is null then
    return;
  end if;
  v_after := v_spec;
  select array_agg(k.key order by k.place), array_agg(k.name order by k.place)
    into v_after.columns, v_after.column_names
    from unnest(v_spec.columns, v_spec.column_names) with ordinality as k (key, name, place)
    join pg_attribute as a
      on a.attrelid = v_spec.relation and a.attname = k.name and not a.attisdropped;
  select array_agg(k.name) into v_after.watch
    from unnest(v_spec.watch) as k (name)
    join pg_attribute as a
      on a.attrelid = v_spec.relation and a.attname = k.name and not a.attisdropped;
  foreach v_after.condition in array array[v_spec.condition, null] loop
    begin
      perform notika._set_busy(true);
      v_after.definition := notika._definition(v_after);
      perform notika._apply(v_spec, v_after);
      perform notika._set_busy(false);
      update notika.workflow as w
         set definition = v_after.definition
       where w.workflow_id = _break.workflow_id;
      return;
    exception when others then
      null; -- the next one asks for less
    end;
  end loop;
end;
$$;

comment on function notika._break(integer, text) is
  'Marks a workflow as broken: its runs are held, and it captures as far as it can.';
