-- health and check: what is wrong, and the call that repairs it.

create or replace function notika.check()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set jit = off -- compilation would take longer than the queries run
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
  'Compares every contract with the catalog, marks workflows that are broken and unmarks those '
  'that are no longer, and returns the findings of notika.health that are not ok. Does no DDL.';

create or replace function notika._health()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
  set jit = off -- compilation would take longer than the queries run
  set quote_all_identifiers = off
as $$
begin
  if not notika._judges_always() then
    return query select 'guard', 'warning', null::text,
      'the verdict at commit is off under session_replication_role = replica, as pg_restore '
      '--disable-triggers leaves it', 'select * from notika.install();';
  elsif notika._has_event_triggers() then
    return query
      select 'guard', 'ok', null::text,
             'judges migrations when they commit' || coalesce((
               select format('; its event triggers belong to "%s", which is not a superuser: some managed servers '
                             'skip them for superusers and reserved roles', pg_get_userbyid(e.evtowner))
                 from pg_event_trigger as e
                 join pg_roles as r on r.oid = e.evtowner and not r.rolsuper
                where e.evtname = 'notika_guard_end'
             ), ''), null::text;
  else
    return query select 'guard', 'warning', null::text,
      'there are no event triggers: DROP ... CASCADE is not refused, and columns in use need notika.release first',
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
             else notika._publish_call(notika._publishable(w))
           end
      from notika._suspects() as s (workflow_id)
      join notika.workflow as w on w.workflow_id = s.workflow_id and w.unpublished_at is null
     cross join lateral notika._try_findings(w) as f
     where f.kind <> 'not_judged'
    union
    -- The guard failed to check it, now or when it was last changed.
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
  return query
    select 'outdated', 'warning', c.name,
           'its triggers are those of an earlier version, and capture as that version did',
           'call notika.refresh();'
      from notika._captured(true) as c;
  if notika._has_event_triggers() and not notika._is_guarded() then
    return query select 'guard_changed', 'error', null::text,
      'the event triggers, their functions or role notika_guard differ from those that install creates',
      'As an administrator: npx notika install';
  end if;
  return query select * from notika._copy_health();
  return query select * from notika._missing_rights();
  return query select * from notika._surplus_rights();
  return query select * from notika._truncate_health();
  return query
    select 'broken', 'error', w.name, w.broken_reason, notika._publish_call(notika._publishable(w))
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
        where k.blocks = 'dispatch' and (l.is_late or l.turns_late)
           or k.blocks = 'ring' and l.turns_late
     ) as b (holders, remedy);
end;
$$;

comment on function notika._health() is 'The findings of notika.health.';

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
  'The findings of notika.health for a monitor: details name tables and columns, and remedies '
  'contain conditions.';

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
  'The findings of notika.health for its reader; without details and remedies for a monitor.';

create or replace view notika.health as
select h.finding, h.severity, h.workflow, h.detail, h.remedy from notika._visible_health() as h;

comment on view notika.health is 'What is well and what is not, with the call that repairs it.';

comment on column notika.health.finding is
  'The kind of the finding, such as column_dropped, or what was checked.';

comment on column notika.health.severity is 'ok, warning or error.';

comment on column notika.health.workflow is 'The workflow that it concerns; null: all of them.';

comment on column notika.health.detail is
  'The object that it concerns, with what was expected and what was found.';

comment on column notika.health.remedy is
  'The call, or the statement of an administrator, that repairs it.';
