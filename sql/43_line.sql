-- Lines: runs of one lane one after the other (order), and so many of a workflow at a time
-- (concurrency).  Who has to wait has a job that never starts by itself (run_at is infinity).
-- Whatever changes a line holds its lock, and wakes whoever is next.  A run that is woken without
-- being next finds out when its attempt starts, and is put back: so it never matters who woke it.

create table if not exists notika.lane (
  run_id bigint not null,
  workflow_id integer not null,
  lane text not null,
  place bigint generated always as identity,
  run_at timestamptz,
  constraint lane_pkey primary key (run_id)
) with (fillfactor = 50);
create index if not exists lane_place_idx on notika.lane (workflow_id, lane, place);

comment on table notika.lane is
  'For workflows with an order: runs that have not ended. The first of each lane may run.';
comment on column notika.lane.run_id is 'The run.';
comment on column notika.lane.workflow_id is 'The workflow.';
comment on column notika.lane.lane is 'The values by which it is ordered.';
comment on column notika.lane.place is 'Its place; a run that is tried again by hand goes last.';
comment on column notika.lane.run_at is
  'Its place among all runs, which it takes when it is its turn. See notika._head.';

create table if not exists notika.slot (
  run_id bigint not null,
  workflow_id integer not null,
  taken_at timestamptz,
  run_at timestamptz,
  constraint slot_pkey primary key (run_id)
) with (fillfactor = 50);
create index if not exists slot_taken_idx on notika.slot (workflow_id) where taken_at is not null;
create index if not exists slot_next_idx
  on notika.slot (workflow_id, run_id) where taken_at is null;

comment on table notika.slot is
  'For workflows with a concurrency: runs that run or want to. Who sleeps or retries is not here.';
comment on column notika.slot.run_id is 'The run.';
comment on column notika.slot.workflow_id is 'The workflow.';
comment on column notika.slot.taken_at is 'Since when it may run; null: it waits.';
comment on column notika.slot.run_at is
  'Its place among all runs, which it takes when it may run. See notika._head.';

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

create or replace function notika._line_up(jobs notika_worker.job_spec[])
  returns notika_worker.job_spec[]
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into notika.lane (run_id, workflow_id, lane, run_at)
  select j.job_key::bigint, w.workflow_id,
         notika._short(notika._values(j.payload, w.options -> 'order')), j.run_at
    from unnest(_line_up.jobs) as j
    join notika.workflow as w on w.name = j.identifier and w.options ? 'order'
   order by j.job_key::bigint
  on conflict do nothing;

  insert into notika.slot (run_id, workflow_id, taken_at, run_at)
  select c.run_id, c.workflow_id, case when c.nth <= c.free then clock_timestamp() end, c.run_at
    from (
      select j.job_key::bigint as run_id, w.workflow_id, w.free, j.run_at,
             row_number() over (partition by w.workflow_id order by j.job_key::bigint) as nth
        from unnest(_line_up.jobs) as j
        join (
          select w.name, w.workflow_id, notika._free_slots(w.workflow_id) as free,
                 w.options ? 'order' as is_ordered
            from notika.workflow as w
           where w.options ? 'concurrency'
             and w.name in (select j.identifier from unnest(_line_up.jobs) as j)
          offset 0
        ) as w on w.name = j.identifier
       where j.run_at <= clock_timestamp()
         and not (w.is_ordered and notika._is_behind(j.job_key::bigint))
    ) as c
  on conflict do nothing;

  return array(
    select row(j.identifier, j.payload, j.queue_name,
               case when w.options ? 'concurrency' and exists (
                           select from notika.slot as s
                            where s.run_id = j.job_key::bigint and s.taken_at is null
                         )
                      or w.options ? 'order' and notika._is_behind(j.job_key::bigint)
                    then 'infinity' else j.run_at end,
               j.max_attempts, j.job_key, j.priority,
               case when notika._is_gated(w.options) then '{gated}'::text[] end
           )::notika_worker.job_spec
      from unnest(_line_up.jobs) as j
      join notika.workflow as w on w.name = j.identifier
  );
end;
$$;

comment on function notika._line_up(notika_worker.job_spec[]) is
  'The jobs with the runs in line that are not next kept from starting.';

create or replace function notika._free_slots(workflow_id integer)
  returns bigint
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  -- Where some wait already, nothing is free for others: it is theirs.
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
  'How many runs of a workflow may start now besides those that are in line; null: any number.';

create or replace function notika._wake_runs(run_ids bigint[])
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_count bigint;
begin
  -- As reschedule_jobs does it, but each at its own time.  Who was in line takes the place that it
  -- had: behind all that came meanwhile, a line would go on only once in each backlog.
  update notika_worker._private_jobs as j
     set run_at = least((
           select coalesce(l.run_at, s.run_at)
             from (select j.key::bigint as run_id) as r
             left join notika.lane as l on l.run_id = r.run_id
             left join notika.slot as s on s.run_id = r.run_id
         ), clock_timestamp()),
         updated_at = clock_timestamp()
    from notika_worker._private_tasks as t
    join notika.workflow as w on w.name = t.identifier
   where t.id = j.task_id
     and j.key = any (array(select r::text from unnest(_wake_runs.run_ids) as r))
     and j.run_at > clock_timestamp() and j.locked_at is null
     and w.paused_at is null and w.broken_reason is null;
  get diagnostics v_count = row_count;
  if v_count > 0 then
    perform notika._announce_jobs(v_count); -- as add_jobs does
  end if;
  return v_count;
end;
$$;

comment on function notika._wake_runs(bigint[]) is
  'Lets sleeping runs start, unless their workflow is held; says how many.';

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
  -- An older snapshot does not see who was let go meanwhile.  Here maintain() does it.
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
     -- An array, because a planner would rather join all who wait.
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
  'Gives the free slots of a workflow to those who wait longest, and says how many were woken. '
  'Needs the line lock.';

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
  'Lets runs go on that have become the first of their lanes, or queues them for a slot. '
  'Needs the line lock.';

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
  'Takes runs that have ended out of all lines, lets the next go and says how many were woken.';

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
  'Gives the slot of a run that sleeps or is tried again later to the next.';

create or replace function notika._requeue(job_id bigint, run_at timestamptz)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_job notika_worker._private_jobs;
  v_workflow text;
  v_new notika_worker._private_jobs;
begin
  select j.* into v_job from notika_worker._private_jobs as j where j.id = _requeue.job_id;
  select t.identifier into v_workflow
    from notika_worker._private_tasks as t where t.id = v_job.task_id;
  if v_job.key is null then
    return;
  end if;

  -- The present one is locked: it loses its key to a new one, and ends when its task returns.
  select j.* into v_new
    from notika_worker.add_job(
           v_workflow, v_job.payload, job_key => v_job.key, run_at => _requeue.run_at,
           max_attempts => v_job.max_attempts, priority => v_job.priority,
           flags => array(select jsonb_object_keys(v_job.flags))
         ) as j;
  if v_job.last_error is not null then
    perform notika_worker.permanently_fail_jobs(array[v_new.id], v_job.last_error);
  end if;
  -- What did not begin is no attempt.
  perform notika_worker.reschedule_jobs(array[v_new.id], attempts => v_job.attempts - 1);
end;
$$;

comment on function notika._requeue(bigint, timestamptz) is
  'Puts a run whose job has just started back, as if it had not, until a later time.';

create or replace function notika._admit(job_id bigint, run_id bigint)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_job notika_worker._private_jobs;
  v_workflow notika.workflow;
  v_closes_at timestamptz;
begin
  select j.* into v_job from notika_worker._private_jobs as j where j.id = _admit.job_id;
  if not coalesce(v_job.flags ? 'gated', false) then
    return true;
  end if;
  select w.* into v_workflow
    from notika_worker._private_tasks as t
    join notika.workflow as w on w.name = t.identifier
   where t.id = v_job.task_id;
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
            notika._short(notika._values(v_job.payload, v_workflow.options -> 'order')),
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
  'Whether a run may go on now. If not, it is put back until it may.';

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

  -- Lines that are not kept any more.
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

  -- Only who waits for its turn: the others know when they go on.
  select array_agg(j.key::bigint) into v_heads
    from notika_worker._private_jobs as j
   where j.key = any (array(select h::text from unnest(v_heads || v_free) as h))
     and j.run_at = 'infinity' and j.locked_at is null
     and not exists (select from notika.wait as w where w.run_id = j.key::bigint);
  return notika._wake_heads(_advance.workflow_id, v_heads);
end;
$$;

comment on function notika._advance(integer) is
  'Lets all runs of a workflow go whom nothing keeps in line any more: after its options have '
  'changed, when it is resumed, and in case somebody was forgotten.';

create or replace function notika._tend_lines()
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
  -- Ended without leaving the line.  A run that was cancelled while it ran leaves when it stops.
  select array_agg(r.run_id) into v_gone
    from (
      select l.run_id from notika.lane as l
      union
      select s.run_id from notika.slot as s
      union
      select b.run_id from notika.batch as b where b.closed_at is null
    ) as r
   where not exists (select from notika_worker._private_jobs as j where j.key = r.run_id::text)
     and r.run_id <> all (array(
       select substring(j.payload::text from '"id" : "([0-9]+)"')::bigint
         from notika_worker._private_jobs as j
        where j.key is null and j.locked_at is not null
     ));
  if v_gone is not null then
    perform notika._leave_lines(v_gone);
    return next format('%s runs that have ended were taken out of line', cardinality(v_gone));
  end if;

  -- Its attempt ended, but its runner died before it said so.
  select array_agg(s.run_id) into v_idle
    from notika.slot as s
    join notika_worker._private_jobs as j on j.key = s.run_id::text
   where s.taken_at < clock_timestamp() - interval '1 second'
     and j.locked_at is null and j.run_at > clock_timestamp();
  perform notika._free_slot(r) from unnest(v_idle) as r;

  -- Looked for without the line lock, which others need all the time.
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
                join notika_worker._private_jobs as j on j.key = h.run_id::text
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

comment on function notika._tend_lines() is
  'Sees to it that nobody waits behind a run that is gone.';
