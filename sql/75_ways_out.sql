-- The ways past the guard, each with a name and a reason on record, and the questions one can ask it.

create or replace function notika._owned(caller name, workflow text)
  returns notika.workflow
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
begin
  select w.* into v_spec
    from notika.workflow as w
   where w.workflow_id = notika._published(_owned.workflow);
  perform notika._expect_decider(v_spec, _owned.caller);
  return v_spec;
end;
$$;

comment on function notika._owned(name, text) is
  'A published workflow that the caller may let be broken, or an error.';

create or replace function notika._check_reason(reason text)
  returns void
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
begin
  if reason is null or reason !~ '\S' then
    raise exception 'a reason is needed'
      using errcode = 'invalid_parameter_value',
            hint = 'It is kept in notika.guard_log, for whoever asks later.';
  end if;
end;
$$;

comment on function notika._check_reason(text) is 'Refuses an empty reason.';

create or replace function notika._let_go(workflow_id integer, tag text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- An early verdict that was asked for would put the pins back at once.
  set constraints notika.guard_at_commit deferred;
  perform notika._summon(array[_let_go.workflow_id], _let_go.tag, format('notika.%s()', case
    when _let_go.tag = 'RELEASE' then 'release' else 'allow_breaking_change' end));
  perform notika._loosen(_let_go.workflow_id);
end;
$$;

comment on function notika._let_go(integer, text) is
  'Takes the pins of a workflow away until this transaction commits.';

create or replace function notika.allow_breaking_change(workflow text, reason text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('allow_breaking_change', jsonb_build_object(
    'workflow', allow_breaking_change.workflow, 'reason', allow_breaking_change.reason));
end;
$$;

comment on function notika.allow_breaking_change(text, text) is
  'Lets this transaction break a workflow, on record. It is marked as broken and its runs are held.';

create or replace function notika._do_allow_breaking_change(caller name, workflow text, reason text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow := notika._owned(
    _do_allow_breaking_change.caller, _do_allow_breaking_change.workflow);
begin
  perform notika._check_reason(reason);
  insert into notika.guard_log (workflow, verdict, statement, reason, done_by)
  values (v_spec.name, 'allowed',
          format('select notika.allow_breaking_change(%L, %L)', v_spec.name, reason),
          _do_allow_breaking_change.reason, _do_allow_breaking_change.caller);
  -- Where there are no event triggers nobody else lets the command through.
  if not notika._has_event_triggers() then
    perform notika._let_go(v_spec.workflow_id, 'ALLOW');
  end if;
end;
$$;

comment on function notika._do_allow_breaking_change(name, text, text) is
  'Carries out allow_breaking_change for a caller.';

create or replace function notika.release(workflow text, reason text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('release', jsonb_build_object(
    'workflow', release.workflow, 'reason', release.reason));
end;
$$;

comment on function notika.release(text, text) is
  'Takes the pins of a workflow away until this transaction commits, when what it left is judged: '
  'the way to alter a pinned column where there are no event triggers.';

create or replace function notika._do_release(caller name, workflow text, reason text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow := notika._owned(_do_release.caller, _do_release.workflow);
begin
  perform notika._check_reason(reason);
  insert into notika.guard_log (workflow, verdict, statement, reason, done_by)
  values (v_spec.name, 'released', format('select notika.release(%L, %L)', v_spec.name, reason),
          _do_release.reason, _do_release.caller);
  perform notika._let_go(v_spec.workflow_id, 'RELEASE');
end;
$$;

comment on function notika._do_release(name, text, text) is 'Carries out release for a caller.';

create or replace function notika.begin_maintenance(reason text, ttl interval default '15 minutes')
  returns bigint
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set intervalstyle = 'postgres'
as $$
begin
  return (notika._ask('begin_maintenance', jsonb_build_object(
    'reason', begin_maintenance.reason, 'ttl', begin_maintenance.ttl)) #>> '{}')::bigint;
end;
$$;

comment on function notika.begin_maintenance(text, interval) is
  'Opens a window in which the guard refuses nothing and takes notes; ends by itself after ttl.';

create or replace function notika._do_begin_maintenance(caller name, reason text, ttl interval)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_id bigint;
begin
  perform notika._check_reason(reason);
  if ttl is null or ttl not between interval '1 second' and interval '1 day' then
    raise exception 'ttl must be between a second and a day'
      using errcode = 'invalid_parameter_value',
            hint = 'For instance: select notika.begin_maintenance(''<reason>'', ''15 minutes'');';
  end if;
  perform notika._expect_member(_do_begin_maintenance.caller, 'begin maintenance');
  insert into notika.maintenance (reason, ends_at, begun_by)
  values (_do_begin_maintenance.reason, clock_timestamp() + _do_begin_maintenance.ttl,
          _do_begin_maintenance.caller)
  returning maintenance_id into v_id;
  insert into notika.guard_log (verdict, reason, done_by)
  values ('maintenance begun', _do_begin_maintenance.reason, _do_begin_maintenance.caller);
  return v_id;
end;
$$;

comment on function notika._do_begin_maintenance(name, text, interval) is
  'Carries out begin_maintenance for a member of the owner.';

create or replace function notika.end_maintenance()
  returns table (workflow text, state text, reason text)
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select w.workflow, w.state, w.reason
      from json_to_recordset(notika._ask('end_maintenance', '{}'))
             as w (workflow text, state text, reason text);
end;
$$;

comment on function notika.end_maintenance() is
  'Closes the window, puts back what it can, and says in what state it leaves each workflow.';

create or replace function notika._do_end_maintenance(caller name)
  returns json
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_workflow_id integer;
begin
  perform notika._expect_member(_do_end_maintenance.caller, 'end maintenance');
  update notika.maintenance as m
     set ended_at = clock_timestamp()
   where m.ended_at is null;
  insert into notika.guard_log (verdict, done_by)
  values ('maintenance ended', _do_end_maintenance.caller);

  for v_workflow_id in
    select w.workflow_id
      from notika.workflow as w
     where w.unpublished_at is null and w.table_name is not null
     order by w.workflow_id
  loop
    begin
      perform notika._reconcile(v_workflow_id, 'end_maintenance', true);
      perform notika._judge(v_workflow_id, 'end_maintenance', 'maintenance');
    exception
      when serialization_failure or deadlock_detected or lock_not_available then
        raise;
      when others then
        perform notika._report_failure(v_workflow_id, null, 'end_maintenance', sqlerrm, sqlstate);
    end;
  end loop;
  return (
    select coalesce(json_agg(json_build_object(
             'workflow', w.workflow, 'state', w.state, 'reason', w.reason)), '[]')
      from notika.workflows as w
  );
end;
$$;

comment on function notika._do_end_maintenance(name) is
  'Carries out end_maintenance for a member of the owner.';

create or replace function notika._rebind_copy()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  update notika.guard_state as s
     set workflow_table = 'notika.workflow'::regclass::oid
   where s.workflow_table <> 'notika.workflow'::regclass::oid;
  if not found then
    return;
  end if;
  perform notika._rebind_grantees();
  update notika.workflow as w
     set publisher_id = (select r.oid from pg_roles as r where r.rolname = w.published_by),
         condition_uses = notika._uses_by_name(w.condition_uses);

  -- Workflows found their tables by name.  Where a rename had not been noticed, the trigger tells.
  update notika.workflow as w
     set table_name = notika._quoted(t.relation)
    from notika.workflow as o
   cross join lateral notika._triggers(o.workflow_id) as t
   where w.relation is null and w.unpublished_at is null and w.on_rename = 'follow'
     and o.workflow_id = w.workflow_id
     and not exists (select from pg_inherits as i where i.inhrelid = t.relation);
  delete from notika.contract_table;
  insert into notika.contract_table (workflow_id, relation)
  select w.workflow_id, t
    from notika.workflow as w
   cross join notika._tables(w.relation) as t
   where w.relation is not null;
  -- 0: there is none.
  update notika.contract as c
     set attnum = coalesce(a.attnum, 0),
         label_ids = case when c.labels = notika._labels(a.atttypid) then notika._label_ids(a.atttypid) end,
         type = case when format_type(a.atttypid, a.atttypmod) = c.type_name then a.atttypid
                     when c.type < 16384 then c.type
                     else 0 end
    from notika.contract as o
    join notika.workflow as w on w.workflow_id = o.workflow_id
    left join pg_attribute as a
      on a.attrelid = w.relation and a.attname = o.column_name and not a.attisdropped
   where c.workflow_id = o.workflow_id and c.column_name = o.column_name;
  perform notika._bind_key(w.workflow_id)
     from notika.workflow as w
    where w.unpublished_at is null;
  raise warning 'notika: this is a restored copy; workflows were bound to its tables by name'
    using hint = 'What could not be bound: select * from notika.health;';
end;
$$;

comment on function notika._rebind_copy() is
  'Binds contracts to the tables of a restored copy.';

create or replace function notika.check()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_workflow_id integer;
begin
  perform notika._rebind_copy();
  for v_workflow_id in
    select s from notika._suspects() as s order by s
  loop
    begin
      perform notika._reconcile(v_workflow_id, 'check', true, false);
      perform notika._judge(v_workflow_id, 'check', 'check');
    exception
      when serialization_failure or deadlock_detected or lock_not_available then
        raise;
      when others then
        perform notika._report_failure(v_workflow_id, null, 'check', sqlerrm, sqlstate);
    end;
  end loop;
  return query select h.* from notika.health as h where h.severity <> 'ok';
end;
$$;

comment on function notika.check() is
  'Compares every contract with the catalog, marks what is broken and what is whole again, and '
  'gives what is not ok of notika.health. Does no DDL.';

create or replace function notika._mended(spec notika.workflow)
  returns notika.workflow
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_mended notika.workflow := _mended.spec;
  v_table regclass := coalesce(notika._table(spec.table_name), spec.relation);
  v_old text[];
  v_new text[];
begin
  v_mended.table_name := coalesce(notika._quoted(v_table), spec.table_name);
  v_mended.columns := spec.column_names;
  if notika._quoted(v_table) is null then
    return v_mended;
  end if;
  -- As it is now; null: gone, and nothing has taken its place.
  select array_agg(c.column_name),
         array_agg(case
           when v_table = spec.relation then coalesce(r.attname, case when not exists (
             select from notika.contract as o
              where o.workflow_id = c.workflow_id and o.attnum = n.attnum
           ) then n.attname end)
           else n.attname end::text)
    into v_old, v_new
    from notika.contract as c
    left join pg_attribute as r
      on r.attrelid = v_table and r.attnum = c.attnum and not r.attisdropped
    left join pg_attribute as n
      on n.attrelid = v_table and n.attname = c.column_name and n.attnum > 0 and not n.attisdropped
   where c.workflow_id = spec.workflow_id;
  v_mended.columns := (
    select array_agg(m.name order by m.place)
      from (
        select case when u.name = any (v_old) then v_new[array_position(v_old, u.name)] else u.name end as name,
               u.place
          from unnest(v_mended.columns) with ordinality as u (name, place)
      ) as m
  );
  v_mended.watch := (
    select array_agg(m.name)
      from (
        select case when u.name = any (v_old) then v_new[array_position(v_old, u.name)] else u.name end as name
          from unnest(v_mended.watch) as u (name)
      ) as m
  );
  v_mended.condition := notika._rename_in(
    v_mended.condition,
    array(select v_old[i] from generate_subscripts(v_old, 1) as i where v_new[i] is not null),
    array(select v_new[i] from generate_subscripts(v_old, 1) as i where v_new[i] is not null));
  v_mended.columns := nullif(array_remove(v_mended.columns, null), '{}');
  v_mended.watch := nullif(array_remove(v_mended.watch, null), '{}');
  return v_mended;
end;
$$;

comment on function notika._mended(notika.workflow) is
  'A workflow as it could be published now: on the table of its name, without columns that are gone.';

create or replace function notika._health()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
begin
  if not notika._judges_always() then
    return query select 'guard', 'warning', null::text,
      'what judges at commit sleeps under session_replication_role = replica, as pg_restore '
      '--disable-triggers leaves it', 'select * from notika.install();';
  elsif notika._has_event_triggers() then
    return query
      select 'guard', 'ok', null::text,
             'judges migrations when they commit' || coalesce((
               select format('; its event triggers belong to "%s", who is no superuser: some managed servers '
                             'skip them for superusers and reserved roles', pg_get_userbyid(e.evtowner))
                 from pg_event_trigger as e
                 join pg_roles as r on r.oid = e.evtowner and not r.rolsuper
                where e.evtname = 'notika_guard_end'
             ), ''), null::text;
  else
    return query select 'guard', 'warning', null::text,
      'only pins protect: DROP ... CASCADE is not refused, and pinned columns need a release first',
      'As an administrator, who may create roles and event triggers: npx notika install; or '
      'select * from notika.install();';
  end if;
  return query
    select f.kind,
           case when notika._is_breaking(f.kind) or w.broken_reason is not null then 'error'
                else 'warning' end,
           w.name,
           format('%s: expected %s, found %s', f.object, coalesce(f.expected, 'nothing'),
                  coalesce(f.actual, 'nothing')),
           case
             when f.kind = 'right_missing' then format('grant %s on %s to %I; then: select * from notika.install();',
               f.expected, f.object, current_user)
             when f.kind = 'trigger_disabled' then format('alter table %s enable trigger %s;',
               split_part(f.object, ' on ', 2), split_part(f.object, ' on ', 1))
             when f.kind in
                  ('part_not_captured', 'form_outdated', 'function_replaced', 'trigger_replaced')
               then 'select * from notika.install();'
             else notika._call(notika._mended(w))
           end
      from notika._suspects() as s (workflow_id)
      join notika.workflow as w on w.workflow_id = s.workflow_id and w.unpublished_at is null
     cross join lateral notika._try_findings(w) as f
     where f.kind <> 'not_judged'
    union
    -- The guard failed at it, now or when it was last changed.
    select 'not_judged', 'warning', w.name, format('the guard could not check it: %s', k.reason),
           'select * from notika.check();'
      from notika._suspects() as s (workflow_id)
      join notika.workflow as w on w.workflow_id = s.workflow_id and w.unpublished_at is null
     cross join lateral (
       select f.actual from notika._try_findings(w) as f where f.kind = 'not_judged'
       union
       select notika._not_judged(w)
     ) as k (reason)
     where k.reason is not null;
  if notika._has_event_triggers() and not notika._is_guarded() then
    return query select 'guard_changed', 'error', null::text,
      'the event triggers, their functions or role notika_guard are not as install makes them',
      'As an administrator: npx notika install';
  end if;
  return query select * from notika._copy_health();
  return query select * from notika._missing_rights();
  return query select * from notika._surplus_rights();
  return query select * from notika._truncate_health();
  return query
    select 'broken', 'error', w.name, w.broken_reason, notika._call(notika._mended(w))
      from notika.workflow as w
     where w.unpublished_at is null and w.broken_reason is not null;
  return query
    select 'schedule', 'error', s.workflow,
           format('could not be kept at %s and is tried again: %s', s.next_at, s.error),
           format('select notika.schedule(%L, %L, %L, %L);', s.workflow, s.cron, s.time_zone,
                  s.missed)
      from notika.schedules as s
     where s.error is not null;
  return query
    select 'backfill', 'error', w.name,
           format('its backfill has stopped: %s; a reader finds the error in notika.backfills', b.error_code),
           format('select notika.backfill(%L%s); or: select notika.cancel_backfill(%1$L);',
                  w.name, ', ' || quote_literal(b.condition))
      from notika.backfill as b
      join notika.workflow as w on w.workflow_id = b.workflow_id
     where b.state = 'failed';
  return query
    select 'ring', case when l.is_late or b.remedy is not null then 'warning' else 'ok' end,
           null::text,
           format('%s events wait%s; the ring has %s%s', l.events_waiting,
                  ', the oldest since ' || l.oldest_waiting, pg_size_pretty(l.ring_bytes),
                  '; held up by ' || b.holders),
           case when b.remedy is not null then b.remedy || ' ends what holds it up'
                when l.is_late then 'Is a runner alive? npx notika run' end
      from (
        select g.events_waiting, g.oldest_waiting, g.ring_bytes,
               coalesce(g.oldest_waiting < clock_timestamp() - interval '1 minute', false)
                 as is_late,
               coalesce(notika._turn_due_at() < clock_timestamp() - interval '1 minute', false)
                 as turns_late
          from notika.lag as g
      ) as l
     cross join lateral (
       select string_agg(concat(k.holder, ': ' || k.holds, ' since ' || k.since), '; '),
              (array_agg(k.remedy order by k.blocks, k.since))[1]
         from notika._blocker as k
        where k.blocks = 'hand-over' and (l.is_late or l.turns_late)
           or k.blocks = 'ring' and l.turns_late
     ) as b (holders, remedy);
end;
$$;

comment on function notika._health() is 'What notika.health shows.';

create or replace function notika._health_without_texts()
  returns table (finding text, severity text, workflow text)
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query select h.finding, h.severity, h.workflow from notika._health() as h;
end;
$$;

comment on function notika._health_without_texts() is
  'What notika.health shows to a monitor: details name tables and columns, and remedies conditions.';

create or replace function notika._visible_health()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language plpgsql
  stable
  security invoker -- so that it depends on the reader of the view
  set search_path = pg_catalog, pg_temp
as $$
begin
  if has_function_privilege('notika._health()', 'execute') then
    return query select * from notika._health();
  else
    return query select h.*, null::text, null::text from notika._health_without_texts() as h;
  end if;
end;
$$;

comment on function notika._visible_health() is
  'What notika.health shows to its reader: to a monitor no details and no remedies.';

create or replace view notika.health as
select h.finding, h.severity, h.workflow, h.detail, h.remedy from notika._visible_health() as h;

comment on view notika.health is 'What is well and what is not, with the call that mends it.';
comment on column notika.health.finding is 'What was looked at or found.';
comment on column notika.health.severity is 'ok, warning or error.';
comment on column notika.health.workflow is 'The workflow; null: all of them.';
comment on column notika.health.detail is 'What it is about.';
comment on column notika.health.remedy is 'What mends it.';
