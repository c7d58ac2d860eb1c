-- Changes that runs wait for. A source is published like a workflow, under the name
-- workflow:source; its events become signals, not jobs. workflow:cancel ends the runs that it
-- matches. A signal counts for a run unless the transaction that started the run could already see
-- it: no change that was committed later is missed, in whatever order the ids were assigned, and
-- no earlier change counts. Dispatching signals and beginning a wait exclude each other by a lock,
-- so that a wait either finds a signal or is found by it.

create or replace function notika._lock_signals(for_hand_over boolean)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_count bigint;
begin
  -- Not a shared lock on one row: new sessions would join it ahead of a dispatch that waits for
  -- it. By process id, so that a session that begins many waits locks one row.
  loop
    if _lock_signals.for_hand_over then
      perform from notika.signal_lock as s order by s.place for update;
    else
      perform from notika.signal_lock as s where s.place = pg_backend_pid() % 32 for update;
    end if;
    get diagnostics v_count = row_count;
    exit when v_count = case when _lock_signals.for_hand_over then 32 else 1 end;
    insert into notika.signal_lock select generate_series(0, 31)
      on conflict do nothing; -- a copy of the schema alone has no rows
  end loop;
end;
$$;

comment on function notika._lock_signals(boolean) is
  'Until commit, either signals are dispatched by one session, or waits begin in any number of '
  'sessions.';

create or replace function notika._match_values(event json, keys text[])
  returns text
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_values jsonb := notika._values(_match_values.event, to_jsonb(_match_values.keys));
begin
  return case when not v_values @> '[null]' then notika._index_key(v_values) end;
end;
$$;

comment on function notika._match_values(json, text[]) is
  'The values of these keys of an event''s row, as one text; null if one of them is null, because '
  'null equals nothing.';

create or replace function notika._register_listeners(run_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._listen(run_ids);
  perform notika._cancel_matched(run_ids => run_ids);
end;
$$;

comment on function notika._register_listeners(bigint[]) is
  'Called for new runs for which changes may count, including changes that were dispatched before '
  'them.';

create or replace function notika._listen(run_ids bigint[])
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  insert into notika.listener (run_id, workflow_id, xid, snapshot, cancel_id, cancel_values)
  select j.key::bigint, w.workflow_id, e.xid, e.snapshot, c.workflow_id,
         case when c.workflow_id is not null
              then notika._match_values(j.payload, notika._run_keys(c.match)) end
    from notika._job as j
    join notika._task as t on t.task_id = j.task_id
    join notika.workflow as w on w.name = t.workflow
    left join notika.workflow as c
      on c.name = w.name || ':cancel' and c.unpublished_at is null
    left join notika._event as e on e.event_id = j.key::bigint
   where j.key = any (_listen.run_ids::text[])
   order by j.key::bigint
  on conflict (run_id) do update
    set cancel_id = excluded.cancel_id, cancel_values = excluded.cancel_values;
$$;

comment on function notika._listen(bigint[]) is
  'Records that these runs are unfinished, and which changes cancel them.';

create or replace function notika._store_signals(event_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into notika.signal (event_id, source_id, xid, cause_id, match_values, event)
  select s.event_id, s.workflow_id, s.xid, s.cause_id, m.match_values, s.event
    from (
      select e.event_id, e.xid, e.cause_id, w.workflow_id, w.match,
             notika._payload(e, w.name, coalesce(notika._quoted(w.relation), w.table_name))
        from notika._event as e
        join notika.workflow as w on w.workflow_id = e.workflow_id
       where e.event_id = any (_store_signals.event_ids)
    ) as s (event_id, xid, cause_id, workflow_id, match, event)
   cross join lateral (
     select notika._match_values(s.event, notika._match_keys(s.match))
   ) as m (match_values)
   where m.match_values is not null
  on conflict do nothing;
end;
$$;

comment on function notika._store_signals(bigint[]) is 'Keeps events of sources as signals.';

create or replace function notika._cancel_matched(
  event_ids bigint[] default '{}',
  run_ids bigint[] default '{}'
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set enable_sort = on -- dispatch switches it off, because it sorts nothing else
as $$
declare
  v_cancelled bigint[];
begin
  with doomed as materialized (
    select distinct on (m.run_id) m.run_id, m.event_id, m.source_id
      from (
        select s.event_id, s.source_id, s.xid, s.cause_id,
               l.run_id, l.xid as run_xid, l.snapshot
          from notika.signal as s
         cross join lateral (
           select a.*
             from notika.listener as a
            where a.cancel_id = s.source_id and a.cancel_values = s.match_values
           offset 0
         ) as l
         where s.event_id = any (_cancel_matched.event_ids)
        union all
        select s.event_id, s.source_id, s.xid, s.cause_id,
               l.run_id, l.xid as run_xid, l.snapshot
          from notika.listener as l
         cross join lateral (
           select a.*
             from notika.signal as a
            where a.source_id = l.cancel_id and a.match_values = l.cancel_values
           offset 0
         ) as s
         where l.run_id = any (_cancel_matched.run_ids)
      ) as m
     where notika._is_later(m.event_id, m.xid, m.run_id, m.run_xid, m.snapshot)
       and m.cause_id is distinct from m.run_id -- a run's own changes do not end it
     order by m.run_id, m.event_id
  ), logged as (
    insert into notika.run_log
      (run_id, workflow, state, attempts, event, error, created_at, started_at)
    select d.run_id, t.workflow, 'cancelled', j.attempts, j.payload,
           format('cancelled by event %s of %s', d.event_id, w.name),
           notika._captured_at(j.payload), j.locked_at
      from doomed as d
      join notika.workflow as w on w.workflow_id = d.source_id
      join notika._job as j on j.key = d.run_id::text
      join notika._task as t on t.task_id = j.task_id
     order by d.run_id -- as all sessions do, to avoid deadlocks
    on conflict do nothing
    returning run_id
  )
  select array_agg(l.run_id order by l.run_id) into v_cancelled from logged as l;

  if v_cancelled is not null then
    perform notika._cancelled(v_cancelled);
    perform notika._remove_jobs(v_cancelled);
  end if;
end;
$$;

comment on function notika._cancel_matched(bigint[], bigint[]) is
  'Cancels the runs that these signals end, and those of these runs that any signal ends.';

create or replace function notika._end_sleep(run_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_runs bigint[];
  v_held bigint[];
begin
  -- A running run notices the signal when it parks; one that has failed is retried at its time.
  select array_agg(j.key::bigint),
         array_agg(j.job_id) filter (where w.paused_at is not null or w.broken_reason is not null)
    into v_runs, v_held
    from notika._job as j
    join notika._task as t on t.task_id = j.task_id
    join notika.workflow as w on w.name = t.workflow
   where j.key = any (_end_sleep.run_ids::text[]) and j.locked_at is null and j.attempts = 0;

  perform notika._wake_runs(v_runs);
  perform notika._suspend_jobs(v_held);
end;
$$;

comment on function notika._end_sleep(bigint[]) is
  'Lets runs that wait continue now, or when their workflow is resumed.';

create or replace function notika._forget_signals()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_here notika.position := notika._position();
  v_new text[];
  v_count bigint;
begin
  -- Runs that were dispatched before the publication of a source was committed.
  select array_agg(distinct notika._workflow_of(s.name)) into v_new
    from notika.workflow as s
   where notika._workflow_of(s.name) is not null
     and s.unpublished_at is null and s.published_at > clock_timestamp() - interval '1 hour';
  if v_new is not null then
    perform notika._listen(array(
      select j.key::bigint
        from notika._job as j
        join notika._task as t on t.task_id = j.task_id
       where t.workflow = any (v_new) and j.key is not null
         and not exists (select from notika.listener as l where l.run_id = j.key::bigint)
    ));
  end if;

  -- A run whose job was deleted by hand would keep them forever.
  delete from notika.listener as l
   where l.run_id in (
     select o.run_id
       from (select a.run_id from notika.listener as a order by a.run_id limit 1000) as o
      where not exists (
        select from notika._job as j where j.key = o.run_id::text
      )
   );

  -- A change from a window that is not completely dispatched may have started a run that needs
  -- them.
  with source as materialized (
    select s.workflow_id, s.name like '%:cancel' as cancels,
           (select min(l.run_id) from notika.listener as l
             where l.workflow_id = w.workflow_id) as first_run,
           (select pg_snapshot_xmin(l.snapshot) from notika.listener as l
             where l.workflow_id = w.workflow_id and l.snapshot is not null
             order by pg_snapshot_xmin(l.snapshot) limit 1) as first_xid
      from notika.workflow as s
      join notika.workflow as w on w.name = notika._workflow_of(s.name)
     where w.name <> all (coalesce(v_new, '{}'))
  ), forgotten as (
    delete from notika.signal as d
     where d.event_id in (
       select g.event_id
         from source as s
         join notika.signal as g on g.source_id = s.workflow_id
        where g.event_id <= notika._bound(v_here)
          and pg_visible_in_snapshot(g.xid, v_here.snapshot)
          and (v_here.burst_snapshot is null
               or pg_visible_in_snapshot(g.xid, v_here.burst_snapshot))
          and (s.cancels or (s.first_run is null or g.event_id < s.first_run)
                            and (s.first_xid is null or g.xid < s.first_xid))
        limit 100000
     )
    returning d.event_id
  )
  select count(*) into v_count from forgotten;
  if v_count > 0 then
    return next format('%s changes that no run waits for are forgotten', v_count);
  end if;
end;
$$;

comment on function notika._forget_signals() is
  'Removes signals that count for no unfinished run. Requires the lock of _lock_dispatch.';
