-- How a runner takes jobs.

create or replace function notika._claim(runner_id text, task_ids integer[], most integer)
  returns table (
    id bigint,
    job_queue_id integer,
    task_id integer,
    payload json,
    attempts smallint,
    max_attempts smallint,
    key text,
    flags jsonb
  )
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  -- The next jobs are the front of an index.  Of a table that fills and empties within seconds a
  -- planner knows nothing, and would rather sort the whole backlog for each few of them.
  set enable_seqscan = off
  set enable_bitmapscan = off
  set enable_sort = off
  set enable_hashjoin = off
  set enable_mergejoin = off
  set jit = off
as $$
begin
  return query
  with next as materialized (
    select j.id
      from notika_worker._private_jobs as j
     where j.is_available and j.job_queue_id is null
       and j.run_at <= now()
       and j.task_id = any (_claim.task_ids)
     order by j.priority, j.run_at
     limit _claim.most
       for update skip locked
  )
  update notika_worker._private_jobs as j
     set attempts = j.attempts + 1, locked_by = _claim.runner_id, locked_at = now()
    from next as n
   where j.id = n.id
  returning j.id, j.job_queue_id, j.task_id, j.payload, j.attempts, j.max_attempts, j.key, j.flags;
end;
$$;

comment on function notika._claim(text, integer[], integer) is
  'Locks the next jobs of these tasks for a runner, at most so many, and begins an attempt of each.';
