-- Lines: runs of one lane run one after the other (order), and at most a number of runs of a
-- workflow run at a time (concurrency). A run that has to wait has a job that never starts by
-- itself (run_at is infinity). Every function that changes a line holds its lock, and wakes the
-- run that is next. A run that is woken without being next notices that when its attempt starts,
-- and is put back, so it does not matter what woke it.

create or replace function notika._lock_line(workflow_id integer)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  loop
    perform from notika.line_lock as l where l.workflow_id = _lock_line.workflow_id for update;
    exit when found;
    -- Usually when the options are set, before any other session sees them.
    insert into notika.line_lock (workflow_id) values (_lock_line.workflow_id)
      on conflict do nothing;
  end loop;
end;
$$;

comment on function notika._lock_line(integer) is
  'Takes the right to decide which run of a workflow is next, until commit. Locks of several '
  'workflows are taken in the order of their ids.';

create or replace function notika._lock_lines(workflow_ids integer[] default null)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._lock_line(w.workflow_id)
     from (
       select w.workflow_id
         from notika.workflow as w
        where notika._has_lines(w.options)
          and (_lock_lines.workflow_ids is null or w.workflow_id = any (_lock_lines.workflow_ids))
        order by w.workflow_id
     ) as w;
  return found;
end;
$$;

comment on function notika._lock_lines(integer[]) is
  'Takes the line locks of those of these workflows that have lines, or of all workflows that '
  'have. False: there was none.';

create or replace function notika._is_behind(run_id bigint)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from notika.lane as l
      join notika.lane as b
        on b.workflow_id = l.workflow_id and b.lane = l.lane and b.place < l.place
     where l.run_id = _is_behind.run_id
  );
$$;

comment on function notika._is_behind(bigint) is 'Whether another run of its lane comes first.';

create or replace function notika._line_up(jobs notika._new_job[])
  returns notika._new_job[]
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into notika.lane (run_id, workflow_id, lane, run_at)
  select j.key::bigint, w.workflow_id,
         notika._index_key(notika._values(j.payload, w.options -> 'order')), j.run_at
    from unnest(_line_up.jobs) as j
    join notika.workflow as w on w.name = j.workflow and w.options ? 'order'
   order by j.key::bigint
  on conflict do nothing;

  insert into notika.slot (run_id, workflow_id, taken_at, run_at)
  select c.run_id, c.workflow_id, case when c.nth <= c.free then clock_timestamp() end, c.run_at
    from (
      select j.key::bigint as run_id, w.workflow_id, w.free, j.run_at,
             row_number() over (partition by w.workflow_id order by j.key::bigint) as nth
        from unnest(_line_up.jobs) as j
        join (
          select w.name, w.workflow_id, notika._free_slots(w.workflow_id) as free,
                 w.options ? 'order' as is_ordered
            from notika.workflow as w
           where w.options ? 'concurrency'
             and w.name in (select j.workflow from unnest(_line_up.jobs) as j)
          offset 0
        ) as w on w.name = j.workflow
       where j.run_at <= clock_timestamp()
         and not (w.is_ordered and notika._is_behind(j.key::bigint))
    ) as c
  on conflict do nothing;

  return array(
    select row(j.workflow, j.payload,
               case when w.options ? 'concurrency' and exists (
                           select from notika.slot as s
                            where s.run_id = j.key::bigint and s.taken_at is null
                         )
                      or w.options ? 'order' and notika._is_behind(j.key::bigint)
                    then 'infinity' else j.run_at end,
               j.max_attempts, j.key, j.priority,
               case when notika._has_lines(w.options) then '{gated}'::text[] end
           )::notika._new_job
      from unnest(_line_up.jobs) as j
      join notika.workflow as w on w.name = j.workflow
  );
end;
$$;

comment on function notika._line_up(notika._new_job[]) is
  'The jobs, of which those whose runs are not next in their line are kept from starting.';

create or replace function notika._free_slots(workflow_id integer)
  returns bigint
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  -- If runs wait already, no slot is free for others: the slots are for those that wait.
  select (w.options ->> 'concurrency')::integer - (
           select count(*)
             from (
               select from notika.slot as s
                where s.workflow_id = _free_slots.workflow_id
                limit (w.options ->> 'concurrency')::integer
             ) as s
         )
    from notika.workflow as w
   where w.workflow_id = _free_slots.workflow_id;
$$;

comment on function notika._free_slots(integer) is
  'The number of runs of a workflow that may start now besides those in line; null: any number.';

create or replace function notika._grant_slots(workflow_id integer)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_free bigint;
  v_granted bigint[];
begin
  -- An older snapshot does not see which runs were woken meanwhile. In that case maintain() wakes
  -- them.
  if current_setting('transaction_isolation') in ('repeatable read', 'serializable') then
    return 0;
  end if;
  select (w.options ->> 'concurrency')::integer - (
           select count(*) from notika.slot as s
            where s.workflow_id = w.workflow_id and s.taken_at is not null
         )
    into v_free
    from notika.workflow as w
   where w.workflow_id = _grant_slots.workflow_id
     and w.paused_at is null and w.broken_reason is null;
  if v_free is null or v_free <= 0 then
    return 0;
  end if;

  with granted as (
    update notika.slot as s
       set taken_at = clock_timestamp()
     -- An array, because a planner would prefer to join all runs that wait.
     where s.run_id = any (array(
       select n.run_id
         from notika.slot as n
        where n.workflow_id = _grant_slots.workflow_id and n.taken_at is null
        order by n.run_id
        limit v_free
     ))
    returning s.run_id
  )
  select array_agg(g.run_id) into v_granted from granted as g;
  return notika._wake_runs(v_granted);
end;
$$;

comment on function notika._grant_slots(integer) is
  'Gives the free slots of a workflow to the runs that have waited longest, and returns how many '
  'were woken. Requires the line lock.';

create or replace function notika._wake_heads(workflow_id integer, run_ids bigint[])
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow notika.workflow;
begin
  select w.* into v_workflow
    from notika.workflow as w
   where w.workflow_id = _wake_heads.workflow_id
     and w.paused_at is null and w.broken_reason is null;
  if v_workflow.options ? 'concurrency' then
    insert into notika.slot (run_id, workflow_id, run_at)
    select r, _wake_heads.workflow_id, (select l.run_at from notika.lane as l where l.run_id = r)
      from unnest(_wake_heads.run_ids) as r
    on conflict do nothing;
    return notika._grant_slots(_wake_heads.workflow_id);
  end if;
  return notika._wake_runs(_wake_heads.run_ids);
end;
$$;

comment on function notika._wake_heads(integer, bigint[]) is
  'Wakes runs that have become the first of their lanes, or queues them for a slot. Requires the '
  'line lock.';

create or replace function notika._leave_lines(run_ids bigint[])
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer;
  v_heads bigint[];
  v_woken bigint := 0;
begin
  for v_workflow_id in
    select l.workflow_id from notika.lane as l where l.run_id = any (_leave_lines.run_ids)
    union
    select s.workflow_id from notika.slot as s where s.run_id = any (_leave_lines.run_ids)
    union
    select b.workflow_id from notika.batch as b
     where b.run_id = any (_leave_lines.run_ids) and b.closed_at is null
     order by 1
  loop
    perform notika._lock_line(v_workflow_id);
    update notika.batch as b
       set closed_at = clock_timestamp()
     where b.run_id = any (_leave_lines.run_ids) and b.workflow_id = v_workflow_id
       and b.closed_at is null;
    delete from notika.slot as s
     where s.run_id = any (_leave_lines.run_ids) and s.workflow_id = v_workflow_id;
    select array_agg(h.run_id) into v_heads
      from (
        select l.lane, min(l.place) as place
          from notika.lane as l
         where l.run_id = any (_leave_lines.run_ids) and l.workflow_id = v_workflow_id
         group by l.lane
      ) as gone
     cross join lateral (
       select l.run_id, l.place
         from notika.lane as l
        where l.workflow_id = v_workflow_id and l.lane = gone.lane
          and l.run_id <> all (_leave_lines.run_ids)
        order by l.place
        limit 1
     ) as h
     where h.place > gone.place;
    delete from notika.lane as l
     where l.run_id = any (_leave_lines.run_ids) and l.workflow_id = v_workflow_id;
    v_woken := v_woken + notika._wake_heads(v_workflow_id, v_heads);
  end loop;
  return v_woken;
end;
$$;

comment on function notika._leave_lines(bigint[]) is
  'Removes runs that have ended from all lines, and wakes the next ones. Returns how many were '
  'woken.';

create or replace function notika._free_slot(run_id bigint)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer;
begin
  select s.workflow_id into v_workflow_id from notika.slot as s where s.run_id = _free_slot.run_id;
  if not found then
    return 0;
  end if;
  perform notika._lock_line(v_workflow_id);
  delete from notika.slot as s where s.run_id = _free_slot.run_id;
  return notika._grant_slots(v_workflow_id);
end;
$$;

comment on function notika._free_slot(bigint) is
  'Gives the slot of a run that sleeps or is to be retried to the next run.';

create or replace function notika._admit(job_id bigint, run_id bigint)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_job record;
  v_workflow notika.workflow;
  v_closes_at timestamptz;
begin
  select j.task_id, j.payload, j.run_at, j.flags into v_job
    from notika._job as j
   where j.job_id = _admit.job_id;
  if not coalesce(v_job.flags ? 'gated', false) then
    return true;
  end if;
  select w.* into v_workflow
    from notika._task as t
    join notika.workflow as w on w.name = t.workflow
   where t.task_id = v_job.task_id;
  perform notika._lock_line(v_workflow.workflow_id);

  update notika.batch as b
     set closed_at = clock_timestamp()
   where b.run_id = _admit.run_id and b.closed_at is null and b.closes_at <= clock_timestamp();
  select b.closes_at into v_closes_at
    from notika.batch as b
   where b.run_id = _admit.run_id and b.closed_at is null;
  if found then
    perform notika._requeue(_admit.job_id, v_closes_at);
    return false;
  end if;

  if v_workflow.options ? 'order' then
    insert into notika.lane (run_id, workflow_id, lane, run_at)
    values (_admit.run_id, v_workflow.workflow_id,
            notika._index_key(notika._values(v_job.payload, v_workflow.options -> 'order')),
            v_job.run_at)
    on conflict do nothing;
    if notika._is_behind(_admit.run_id) then
      perform notika._requeue(_admit.job_id, 'infinity');
      return false;
    end if;
  end if;

  if v_workflow.options ? 'concurrency' then
    insert into notika.slot (run_id, workflow_id, run_at)
    values (_admit.run_id, v_workflow.workflow_id, v_job.run_at)
    on conflict do nothing;
    perform notika._grant_slots(v_workflow.workflow_id);
    if exists (
      select from notika.slot as s where s.run_id = _admit.run_id and s.taken_at is null
    ) then
      perform notika._requeue(_admit.job_id, 'infinity');
      return false;
    end if;
  end if;
  return true;
end;
$$;

comment on function notika._admit(bigint, bigint) is
  'Whether a run may continue now. If not, it is put back until it may.';

create or replace function notika._advance(workflow_id integer)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_options jsonb;
  v_free bigint[];
  v_heads bigint[];
begin
  perform notika._lock_line(_advance.workflow_id);
  select w.options into v_options
    from notika.workflow as w
   where w.workflow_id = _advance.workflow_id;

  -- Lines whose option is gone.
  if not v_options ? 'order' then
    with gone as (
      delete from notika.lane as l where l.workflow_id = _advance.workflow_id returning l.run_id
    )
    select array_agg(g.run_id) into v_heads from gone as g;
  else
    select array_agg(h.run_id) into v_heads
      from (
        select distinct on (l.lane) l.run_id
          from notika.lane as l
         where l.workflow_id = _advance.workflow_id
         order by l.lane, l.place
      ) as h;
  end if;
  if not v_options ? 'concurrency' then
    with gone as (
      delete from notika.slot as s where s.workflow_id = _advance.workflow_id returning s.run_id
    )
    select array_agg(g.run_id) into v_free from gone as g;
  end if;

  -- Only runs that wait for their turn: the others have a time at which they continue.
  select array_agg(j.key::bigint) into v_heads
    from notika._job as j
   where j.key = any (array(select h::text from unnest(v_heads || v_free) as h))
     and j.run_at = 'infinity' and j.locked_at is null
     and not exists (select from notika.wait as w where w.run_id = j.key::bigint);
  return notika._wake_heads(_advance.workflow_id, v_heads);
end;
$$;

comment on function notika._advance(integer) is
  'Starts all runs of a workflow that no longer have to wait in line: after its options have '
  'changed, when it is resumed, and in case a run was overlooked.';

create or replace function notika._repair_lines()
  returns setof text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer;
  v_gone bigint[];
  v_idle bigint[];
begin
  -- They ended without leaving the line. A run that was cancelled while it ran leaves when it
  -- stops.
  select array_agg(r.run_id) into v_gone
    from (
      select l.run_id from notika.lane as l
      union
      select s.run_id from notika.slot as s
      union
      select b.run_id from notika.batch as b where b.closed_at is null
    ) as r
   where not exists (select from notika._job as j where j.key = r.run_id::text)
     and r.run_id <> all (array(
       select substring(j.payload::text from '"id" : "([0-9]+)"')::bigint
         from notika._job as j
        where j.key is null and j.locked_at is not null
     ));
  if v_gone is not null then
    perform notika._leave_lines(v_gone);
    return next format('%s runs that have ended were taken out of line', cardinality(v_gone));
  end if;

  -- Its attempt ended, but its runner died before it recorded that.
  select array_agg(s.run_id) into v_idle
    from notika.slot as s
    join notika._job as j on j.key = s.run_id::text
   where s.taken_at < clock_timestamp() - interval '1 second'
     and j.locked_at is null and j.run_at > clock_timestamp();
  perform notika._free_slot(r) from unnest(v_idle) as r;

  -- Searched without the line lock, which other sessions need all the time.
  for v_workflow_id in
    select w.workflow_id
      from notika.workflow as w
     where w.paused_at is null and w.broken_reason is null
       and (exists (
              select
                from (
                  select distinct on (l.lane) l.run_id
                    from notika.lane as l
                   where l.workflow_id = w.workflow_id
                   order by l.lane, l.place
                ) as h
                join notika._job as j on j.key = h.run_id::text
               where j.run_at = 'infinity' and j.locked_at is null
                 and not exists (select from notika.slot as s where s.run_id = h.run_id)
                 and not exists (select from notika.wait as v where v.run_id = h.run_id)
            )
            or exists (
              select from notika.slot as s
               where s.workflow_id = w.workflow_id and s.taken_at is null
            ) and (
              select count(*)
                from notika.slot as s
               where s.workflow_id = w.workflow_id and s.taken_at is not null
            ) < (w.options ->> 'concurrency')::integer)
     order by w.workflow_id
  loop
    perform notika._advance(v_workflow_id);
  end loop;
end;
$$;

comment on function notika._repair_lines() is
  'Ensures that no run waits behind a run that is gone.';
