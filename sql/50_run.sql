-- Runs: events that wait, jobs that live, outcomes that are logged; and what people do to them.

create or replace view notika.event_log as
select e.event_id,
       w.name as workflow,
       e.operation,
       case when c.oid is null then w.table_name
            else format('%I.%I', n.nspname, c.relname) end as table_name,
       e.captured_at as at,
       e.new,
       e.old,
       e.truncated,
       e.depth,
       notika._dispatched(e.event_id, e.xid, e.workflow_id, p) as dispatched,
       e.cause_id
  from notika._event as e
  join notika.workflow as w on w.workflow_id = e.workflow_id
  left join pg_catalog.pg_class as c on c.oid = w.relation
  left join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
 cross join (
   select q as p from notika.position as q order by q.position_id desc limit 1
 ) as newest;

comment on view notika.event_log is
  'The ring: captured events, those handed over included, until their segment is used again.';
comment on column notika.event_log.event_id is 'The id of the event and of its run.';
comment on column notika.event_log.workflow is 'The workflow it is addressed to.';
comment on column notika.event_log.operation is
  'insert, update or delete; emit, schedule, backfill or replay for other starts.';
comment on column notika.event_log.table_name is 'The table, as it is called now.';
comment on column notika.event_log.at is 'When it was captured.';
comment on column notika.event_log.new is
  'The published columns after the change, as json: text that jsonb refuses was not refused.';
comment on column notika.event_log.old is 'The published columns before the change.';
comment on column notika.event_log.truncated is 'Whether new and old were cut down to the key.';
comment on column notika.event_log.depth is 'How many runs stand between it and a write of no run.';
comment on column notika.event_log.dispatched is 'Whether it was handed over to graphile-worker.';
comment on column notika.event_log.cause_id is 'The run whose write this is; null: not a run''s.';

create or replace view notika.runs as
select l.run_id,
       l.workflow,
       l.state,
       l.attempts::integer as attempts,
       coalesce(l.event, (
         select notika._payload(e, l.workflow, w.table_name)
           from notika._event as e
           join notika.workflow as w on w.workflow_id = e.workflow_id
          where e.event_id = l.run_id
       )) as event,
       l.error,
       l.created_at,
       null::timestamptz as wake_at,
       l.started_at,
       l.finished_at
  from notika.run_log as l
 where l.retried_at is null
union all
select j.key::bigint,
       t.identifier,
       case
         when j.locked_at is not null then 'running'
         when j.run_at <= clock_timestamp() then 'ready'
         when j.run_at = 'infinity' then case
           when w.paused_at is not null or w.broken_reason is not null then 'held'
           else 'waiting'
         end
         when exists (select from notika.wait as w where w.run_id = j.key::bigint) then 'waiting'
         when j.attempts > 0 or j.flags ? 'resumed' then 'retrying'
         else 'waiting'
       end,
       j.attempts::integer,
       j.payload,
       j.last_error,
       notika._captured_at(j.payload),
       case when j.run_at > clock_timestamp() then j.run_at end,
       j.locked_at,
       null::timestamptz
  from notika_worker._private_jobs as j
  join notika_worker._private_tasks as t on t.id = j.task_id
  left join notika.workflow as w on w.name = t.identifier
 where j.key ~ '^[0-8]?[0-9]{1,18}$' -- a runner may have added what is no bigint
   -- Between the outcome and the end of its job a run is in both places.
   and not exists (
     select from notika.run_log as l where l.run_id = j.key::bigint and l.retried_at is null
   )
union all
select e.event_id,
       w.name,
       'ready',
       0,
       notika._payload(e, w.name, w.table_name),
       null,
       e.captured_at,
       null,
       null,
       null
  from notika._event as e
  join notika.workflow as w on w.workflow_id = e.workflow_id
 cross join (
   select q as p from notika.position as q order by q.position_id desc limit 1
 ) as newest
 where e.event_id > notika._bound(p)
   -- What a source captures starts no run.  Not by _workflow_of, which is estimated at next to none.
   and w.name not like '%:%'
   and not notika._dispatched(e.event_id, e.xid, e.workflow_id, p)
   and not exists (
     select from notika.run_log as l where l.run_id = e.event_id and l.retried_at is null
   );

comment on view notika.runs is 'Every run that waits, lives, or has ended and is remembered.';
comment on column notika.runs.run_id is 'Its id, which is that of its event.';
comment on column notika.runs.workflow is 'Its workflow.';
comment on column notika.runs.state is
  'ready, running, waiting, retrying, held, done, failed, cancelled or expired.';
comment on column notika.runs.attempts is 'How often it was tried.';
comment on column notika.runs.event is
  'What its task gets; of a run that is done only while the ring remembers it.';
comment on column notika.runs.error is 'The message of the last error.';
comment on column notika.runs.created_at is 'When its event was captured.';
comment on column notika.runs.wake_at is
  'When it goes on; infinity: when it is its turn, or its workflow is resumed.';
comment on column notika.runs.started_at is 'When its last attempt began.';
comment on column notika.runs.finished_at is 'When it ended.';

create or replace view notika._blocker as
select b.holder, b.holds, b.blocks, b.since, b.remedy
  from (
    with recursive here as materialized (
      select p.pending_xids, notika._bound(p) as bound, p as position
        from notika.position as p
       order by p.position_id desc
       limit 1
    ), lock as materialized (
      select k.pid, k.relation, k.mode, k.granted, k.waitstart, k.transactionid,
             k.locktype = 'tuple' as is_row, c.oid is not null as is_ours,
             k.relation = 'notika.dispatch_lock'::regclass
               and k.mode = 'ShareUpdateExclusiveLock' and k.granted as hands_over,
             k.locktype = 'relation' and k.mode in (
               'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'
             ) as is_strong
        from pg_catalog.pg_locks as k
        left join pg_catalog.pg_class as c
          on c.oid = k.relation and c.relnamespace in (
               'notika'::pg_catalog.regnamespace, 'notika_worker'::pg_catalog.regnamespace
             )
       where k.pid is not null -- a prepared transaction has none
         and (k.database is null or k.database = (
               select d.oid from pg_catalog.pg_database as d
                where d.datname = pg_catalog.current_database()
             ))
    ), waiting as (
      -- For a relation or a row of ours: a row is waited for as the transaction that has locked it.
      select w.pid, w.is_strong
        from lock as w
       where not w.granted
         and w.waitstart < pg_catalog.clock_timestamp() - interval '500 milliseconds'
         and (w.is_ours or exists (
           select from lock as h
            where h.pid = w.pid and h.granted and h.is_ours and (h.is_row or h.hands_over)
         ))
    ), blocking as (
      select b.pid, w.pid as waits
        from waiting as w
       cross join unnest(pg_catalog.pg_blocking_pids(w.pid)) as b (pid)
      union
      select b.pid, f.pid
        from blocking as f
       cross join unnest(pg_catalog.pg_blocking_pids(f.pid)) as b (pid)
    ), session as materialized (
      select a.pid, a.backend_xid, a.xact_start as since,
             format('pid %s (%s)', a.pid, coalesce(
               nullif(concat_ws(', ', a.usename, nullif(a.application_name, '')), ''),
               a.backend_type, 'a process of the server')) as holder,
             -- Not every role may see when a transaction began.  It sees whether events wait.
             coalesce(
               a.xact_start < pg_catalog.clock_timestamp() - interval '500 milliseconds',
               exists (
                 select from here as h
                   join notika._event as e on e.event_id > h.bound
                  where e.captured_at < pg_catalog.clock_timestamp() - interval '500 milliseconds'
                    and not notika._dispatched(e.event_id, e.xid, e.workflow_id, h.position)
               )) as is_old
        from pg_catalog.pg_stat_activity as a
       where a.pid <> pg_catalog.pg_backend_pid() and a.datname = pg_catalog.current_database()
    ), held as (
      select s.pid, 'uncommitted writes' as holds, 'nothing' as blocks
        from session as s
       where s.backend_xid::text::bigint in (
               -- backend_xid has 32 bits
               select x.xid::text::bigint & 4294967295
                 from here as h
                cross join unnest(h.pending_xids) as x (xid)
             )
      union
      select k.pid, format('a lock on %s', k.relation::pg_catalog.regclass), 'ring'
        from lock as k
       where k.granted
         and k.relation = pg_catalog.to_regclass(format('notika.event_log_%s', notika._segment(1)))
         and k.pid not in (select h.pid from lock as h where h.hands_over)
      union
      select k.pid, format('a lock on %s', k.relation::pg_catalog.regclass), 'hand-over'
        from lock as k
        join session as s on s.pid = k.pid and s.is_old
       where k.is_ours and k.is_strong and k.granted
      union
      select k.pid, 'the right to hand over', 'hand-over'
        from lock as k
        join session as s on s.pid = k.pid and s.is_old
       -- A session that waits is held up itself.
       where k.hands_over and k.pid not in (select w.pid from waiting as w)
      union
      select k.pid, r.holds, 'hand-over'
        from (
          select l.xmax, format('the line of workflow "%s"', w.name) as holds
            from notika.line_lock as l
            join notika.workflow as w on w.workflow_id = l.workflow_id
          union
          select l.xmax, 'the lock on signals'
            from notika.signal_lock as l
        ) as r
        join lock as k on k.transactionid = r.xmax and k.granted
        join session as s on s.pid = k.pid and s.is_old
       where k.pid not in (select w.pid from waiting as w)
         and k.pid not in (select h.pid from lock as h where h.hands_over)
    )
    select s.holder, h.holds, h.blocks, s.since,
           format('select pg_terminate_backend(%s);', s.pid) as remedy
      from held as h
      join session as s on s.pid = h.pid
    union all
    select s.holder, format('what pid %s waits for', min(b.waits)), 'hand-over', s.since,
           format('select pg_terminate_backend(%s);', s.pid)
      from blocking as b
      join session as s on s.pid = b.pid
     where b.pid not in (select h.pid from held as h where h.blocks = 'hand-over')
       and b.pid not in (select w.pid from waiting as w where not w.is_strong)
     group by s.pid, s.holder, s.since
    union all
    select format('prepared transaction %L of %s', x.gid, x.owner), null, 'ring', x.prepared,
           format('rollback prepared %L;', x.gid)
      from pg_catalog.pg_prepared_xacts as x
     where x.database = pg_catalog.current_database()
  ) as b;

comment on view notika._blocker is
  'What has stopped the hand-over or the ring for half a second or more, or may have; never the '
  'session that asks.';
comment on column notika._blocker.holder is
  'A session, by process id, role and application, or a prepared transaction.';
comment on column notika._blocker.holds is 'What it holds; null: that is not known.';
comment on column notika._blocker.blocks is
  'What that stops: hand-over, ring, or nothing (its own events are not handed over yet).';
comment on column notika._blocker.since is
  'When its transaction began; null: the role that asks may not see that.';
comment on column notika._blocker.remedy is 'The statement that ends it.';

create or replace view notika.lag as
select waiting.events as events_waiting,
       waiting.oldest as oldest_waiting,
       pg_catalog.pg_table_size('notika.event_log_0')
         + pg_catalog.pg_table_size('notika.event_log_1')
         + pg_catalog.pg_table_size('notika.event_log_2') as ring_bytes,
       -- A subquery, so that it is evaluated only where it is asked for.
       (select array_agg(distinct b.text order by b.text)
          from (
            select b.holder || coalesce(': ' || b.holds, '') || coalesce(' since ' || b.since, '')
              from notika._blocker as b
          ) as b (text)) as blocked_by,
       (select max(r.seen_at) from notika.runner as r) as dispatcher_seen_at
  from (
    select q as p from notika.position as q order by q.position_id desc limit 1
  ) as newest
 cross join lateral (
   select count(*) as events, min(e.captured_at) as oldest
     from notika._event as e
    where e.event_id > notika._bound(p)
      and not notika._dispatched(e.event_id, e.xid, e.workflow_id, p)
 ) as waiting;

comment on view notika.lag is 'How far the hand-over is behind, and what holds it or the ring up.';
comment on column notika.lag.events_waiting is 'Committed events that are not handed over yet.';
comment on column notika.lag.oldest_waiting is 'When the oldest of them was captured.';
comment on column notika.lag.ring_bytes is 'The size of the three segments, in bytes.';
comment on column notika.lag.blocked_by is
  'Sessions that have held a lock which the hand-over needs for half a second or more; that hold a '
  'lock on the oldest segment, which keeps the ring from turning; that have uncommitted writes, which '
  'may hold events; and prepared transactions, which may do all of that; null: none.';
comment on column notika.lag.dispatcher_seen_at is 'When a runner was last heard of.';

create or replace view notika.run_counts as
select r.workflow, r.state, count(*) as runs
  from notika.runs as r
 group by r.workflow, r.state;

comment on view notika.run_counts is 'How many runs of each workflow are in which state.';
comment on column notika.run_counts.workflow is 'The workflow.';
comment on column notika.run_counts.state is
  'ready, running, waiting, retrying, held, done, failed, cancelled or expired.';
comment on column notika.run_counts.runs is 'How many runs are in it and remembered.';

create or replace function notika._short_size(document text)
  returns bigint
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  v_rest text := regexp_replace(_short_size.document, $re$"(?:[^"\\]|\\.)*"$re$, '', 'g');
begin
  return octet_length(_short_size.document) - octet_length(v_rest) -- the strings
    -- 1e100 is written with a hundred zeros in it, and 1e-100 with as many before it.
    + octet_length(regexp_replace(replace(v_rest, ' ', ''), $re$0\.0+|0{3,}$re$, 'e9', 'g'));
end;
$body$;

comment on function notika._short_size(text) is
  'How many bytes the text of a jsonb can have been at the least, before jsonb put spaces into it and '
  'wrote its numbers out.';

create or replace function notika.emit(workflow text, payload jsonb default '{}')
  returns bigint
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_limit constant integer := (select s.payload_bytes from notika.setting as s);
  v_workflow_id integer := notika._published(emit.workflow);
  v_size bigint;
  v_text text;
begin
  -- As it is kept inside, which is known without reading it, a number takes up to six times its text.
  v_size := pg_column_size(emit.payload);
  if v_size <= 6 * v_limit::bigint then
    v_text := emit.payload::text;
    v_size := octet_length(v_text);
    -- What was given may have been shorter.
    if v_size > v_limit and v_size <= 32 * v_limit::bigint then
      v_size := notika._short_size(v_text);
    end if;
  end if;
  if v_size > v_limit then
    raise exception 'the payload for workflow "%" is too big: % bytes, and at most % are allowed',
        emit.workflow, v_size, v_limit
      using errcode = 'program_limit_exceeded',
            hint = 'Emit a key, and let the task read the rest.';
  end if;
  return notika._append(v_workflow_id, 'emit', emit.payload::json);
end;
$$;

comment on function notika.emit(text, jsonb) is
  'Adds an event by hand, in the current transaction, with payload as its new, and returns its id. The '
  'payload may have as many bytes as payload_bytes in notika.setting says, when it is written without '
  'spaces between its parts and its numbers are written as shortly as can be, and 32 times as '
  'many with its numbers written out.';

create or replace function notika._published(workflow text)
  returns integer
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer;
begin
  select w.workflow_id into v_workflow_id
    from notika.workflow as w
   where w.name = _published.workflow and w.unpublished_at is null;
  if not found then
    raise exception 'workflow "%" is not published', _published.workflow
      using errcode = 'undefined_object',
            hint = format('Publish it first: select notika.publish(%L, ''<schema>.<table>''); '
                          'What is published: select workflow from notika.workflows;',
                          _published.workflow);
  end if;
  return v_workflow_id;
end;
$$;

comment on function notika._published(text) is 'The id of a published workflow, or an error.';

create or replace function notika.pause(workflow text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('pause', jsonb_build_object('workflow', pause.workflow));
end;
$$;

comment on function notika.pause(text) is
  'Holds the runs of a workflow. Its changes are captured all the same; resume lets them run.';

create or replace function notika._do_pause(caller name, workflow text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer := notika._published(_do_pause.workflow);
begin
  perform notika._expect_decider(w, _do_pause.caller, or_runner => true)
     from notika.workflow as w
    where w.workflow_id = v_workflow_id;
  if notika._workflow_of(_do_pause.workflow) is not null then
    raise exception 'source "%" has no runs to hold', _do_pause.workflow
      using errcode = 'invalid_parameter_value',
            hint = format('Pause its workflow: select notika.pause(%L);',
                          notika._workflow_of(_do_pause.workflow));
  end if;
  update notika.workflow as w
     set paused_at = clock_timestamp()
   where w.workflow_id = v_workflow_id and w.paused_at is null;
  perform notika._hold_jobs();
end;
$$;

comment on function notika._do_pause(name, text) is 'Carries out pause for a caller.';

create or replace function notika.resume(workflow text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('resume', jsonb_build_object('workflow', resume.workflow));
end;
$$;

comment on function notika.resume(text) is 'Lets the runs go on that pause held, all at once.';

create or replace function notika._do_resume(caller name, workflow text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._expect_decider(w, _do_resume.caller, or_runner => true)
     from notika.workflow as w
    where w.workflow_id = notika._published(_do_resume.workflow);
  perform notika._resume(_do_resume.workflow);
end;
$$;

comment on function notika._do_resume(name, text) is 'Carries out resume for a caller.';

create or replace function notika._resume(workflow text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer := notika._published(_resume.workflow);
begin
  update notika.workflow as w
     set paused_at = null, resumed_at = clock_timestamp()
   where w.workflow_id = v_workflow_id;

  perform notika._place_held(_resume.workflow);
  perform notika._advance(v_workflow_id);
end;
$$;

comment on function notika._resume(text) is 'Lets the runs of a workflow go on that were held.';

create or replace function notika.retry(run_id bigint, from_start boolean default false)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('retry', jsonb_build_object(
    'run_id', retry.run_id, 'from_start', retry.from_start));
end;
$$;

comment on function notika.retry(bigint, boolean) is
  'Makes a run that has ended run again: it goes on from the step that failed, or from_start, '
  'where it forgets its steps.';

create or replace function notika._do_retry(caller name, run_id bigint, from_start boolean)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_run notika.run_log;
begin
  -- The lock keeps two people from retrying the same run twice.
  select l.* into v_run
    from notika.run_log as l
   where l.run_id = _do_retry.run_id and l.retried_at is null
     for update;
  perform notika._expect_decider(w, _do_retry.caller, or_runner => true)
     from notika.workflow as w
    where w.name = coalesce(v_run.workflow, (
      select r.workflow from notika.runs as r where r.run_id = _do_retry.run_id
    ));
  if v_run.run_id is null then
    perform notika._alive(_do_retry.run_id);
  end if;

  v_run.event := coalesce(v_run.event, (
    select r.event from notika.runs as r where r.run_id = _do_retry.run_id
  ));
  if v_run.event is null then
    raise exception 'the event of run % is gone', _do_retry.run_id
      using errcode = 'no_data_found',
            detail = 'The run was done, and the ring has forgotten its event since.',
            hint = format('Start a new run: select notika.emit(%L, ''{...}'');', v_run.workflow);
  end if;

  perform notika._revive(v_run, _do_retry.from_start);
  perform notika._hold_jobs();
end;
$$;

comment on function notika._do_retry(name, bigint, boolean) is 'Carries out retry for a caller.';

create or replace function notika.retry(
  workflow text,
  since timestamptz,
  from_start boolean default false
)
  returns integer
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (notika._ask('retry_failed', jsonb_build_object(
    'workflow', retry.workflow, 'since', retry.since, 'from_start', retry.from_start)) #>> '{}')::integer;
end;
$$;

comment on function notika.retry(text, timestamptz, boolean) is
  'Makes the runs of a workflow that have failed since then run again, as retry does with one; says '
  'how many.';

create or replace function notika._do_retry(
  caller name,
  workflow text,
  since timestamptz,
  from_start boolean
)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_run notika.run_log;
  v_count integer := 0;
begin
  if not exists (select from notika.workflow as w where w.name = _do_retry.workflow) then
    perform notika._published(_do_retry.workflow);
  end if;
  perform notika._expect_decider(w, _do_retry.caller, or_runner => true)
     from notika.workflow as w
    where w.name = _do_retry.workflow;
  for v_run in
    select l.*
      from notika.run_log as l
     where l.workflow = _do_retry.workflow and l.state = 'failed' and l.retried_at is null
       and l.finished_at >= _do_retry.since
     order by l.run_id
       for update
  loop
    perform notika._revive(v_run, _do_retry.from_start);
    v_count := v_count + 1;
  end loop;
  perform notika._hold_jobs();
  return v_count;
end;
$$;

comment on function notika._do_retry(name, text, timestamptz, boolean) is
  'Carries out retry of what has failed for a caller.';

create or replace function notika._revive(ended notika.run_log, from_start boolean)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  update notika.run_log as l
     set retried_at = clock_timestamp()
   where l.run_id = ended.run_id and l.retried_at is null;
  delete from notika.step as s
   where s.run_id = ended.run_id and (s.state <> 'done' or _revive.from_start);
  perform notika_worker.add_job(
    ended.workflow, ended.event, job_key => ended.run_id::text,
    run_at => clock_timestamp(), -- of many no two have the same place
    priority => coalesce((
      select (w.options ->> 'priority')::integer
        from notika.workflow as w
       where w.name = ended.workflow
    ), 0),
    max_attempts => (select s.max_attempts from notika.setting as s),
    flags => array['resumed'] || notika._flags(ended.workflow)
  );
  perform notika._listen_again(ended.run_id);
end;
$$;

comment on function notika._revive(notika.run_log, boolean) is
  'Makes a run that has ended, and whose event is known, a job again.';

create or replace function notika._alive(run_id bigint)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_state text;
begin
  select r.state into v_state from notika.runs as r where r.run_id = _alive.run_id;
  if found then
    raise exception 'run % has not ended: it is %', _alive.run_id, v_state
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Wait for it, or end it first: select notika.cancel(%s);', _alive.run_id);
  end if;
  raise exception 'there is no run %', _alive.run_id
    using errcode = 'undefined_object',
          hint = 'The ids are in: select * from notika.runs;';
end;
$$;

comment on function notika._alive(bigint) is 'Says why a run cannot be retried, as an error.';

create or replace function notika.cancel(run_id bigint)
  returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (notika._ask('cancel', jsonb_build_object('run_id', cancel.run_id)) #>> '{}')::boolean;
end;
$$;

comment on function notika.cancel(bigint) is
  'Ends a run that has not ended: true; one that has is left alone: false.';

create or replace function notika._do_cancel(caller name, run_id bigint)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_run notika.runs;
  v_cancelled boolean;
begin
  if not exists (
    select from notika_worker._private_jobs as j where j.key = _do_cancel.run_id::text
  ) then
    -- Its event may be on the way: wait until it has become a job, or keep it from that.
    perform notika._lock_dispatch(waits => true);
  end if;
  select r.* into v_run from notika.runs as r where r.run_id = _do_cancel.run_id;
  if not found then
    raise exception 'there is no run %', _do_cancel.run_id
      using errcode = 'undefined_object',
            hint = 'The ids are in: select * from notika.runs;';
  end if;
  perform notika._expect_decider(w, _do_cancel.caller, or_runner => true)
     from notika.workflow as w
    where w.name = v_run.workflow;
  if v_run.state in ('done', 'failed', 'cancelled', 'expired') then
    return false;
  end if;

  insert into notika.run_log
    (run_id, workflow, state, attempts, event, error, created_at, started_at)
  values
    (v_run.run_id, v_run.workflow, 'cancelled', v_run.attempts, v_run.event, v_run.error,
     v_run.created_at, v_run.started_at)
  on conflict do nothing;
  v_cancelled := found; -- or it has ended in this very moment
  perform notika._cancelled(array[_do_cancel.run_id]);
  -- A running job is not stopped, but neither is it tried again, nor does its outcome count.
  perform notika_worker.remove_job(_do_cancel.run_id::text);
  return v_cancelled;
end;
$$;

comment on function notika._do_cancel(name, bigint) is 'Carries out cancel for a caller.';

create or replace function notika._finish(outcomes json)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into notika.run_log
    (run_id, workflow, state, attempts, event, error, stack, created_at, started_at)
  select o.run_id, o.workflow, o.state, o.attempts,
         -- The ring forgets it; the job still has it.
         case when o.state <> 'done' then (
           select j.payload from notika_worker._private_jobs as j where j.key = o.run_id::text
         ) end,
         o.error, o.stack, o.created_at, o.started_at
    from json_to_recordset(_finish.outcomes) as o (
           run_id bigint, workflow text, state text, attempts smallint, error text, stack text,
           created_at timestamptz, started_at timestamptz
         )
   order by o.run_id
  on conflict do nothing;
  perform notika._settled(array_agg(o.run_id))
     from json_to_recordset(_finish.outcomes) as o (run_id bigint);
end;
$$;

comment on function notika._finish(json) is
  'Appends the outcomes of runs, an array of objects with the columns of run_log.';

create or replace function notika._next_due(tasks text[])
  returns timestamptz
  language sql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select least(
    (select min(j.run_at)
       from notika_worker._private_jobs as j
       join notika_worker._private_tasks as t on t.id = j.task_id
      where t.identifier = any (_next_due.tasks)
        and j.is_available and j.run_at < 'infinity'),
    (select min(greatest(s.next_at, s.tried_at + interval '1 second'))
       from notika.schedule as s
       join notika.workflow as w on w.workflow_id = s.workflow_id
      where w.name = any (_next_due.tasks)
        and w.unpublished_at is null and w.paused_at is null and w.broken_reason is null
        and s.next_at < 'infinity'),
    -- Not from notika.lag, which takes longer to plan than all the rest.
    (select min(e.captured_at)
       from (
         select q as p from notika.position as q order by q.position_id desc limit 1
       ) as newest
       join notika._event as e on e.event_id > notika._bound(p)
      where not notika._dispatched(e.event_id, e.xid, e.workflow_id, p))
  );
$$;

comment on function notika._next_due(text[]) is
  'When there is next something to do for who has these tasks; null: nothing, unless a row changes.';

create or replace function notika._beat(
  runner_id text,
  host text,
  pid integer,
  tasks text[],
  blocked_for interval default null
)
  returns boolean
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  if _beat.blocked_for > (select s.blocked_for from notika.setting as s) then
    return false;
  end if;
  insert into notika.runner as r (runner_id, host, pid, tasks, blocked_since)
  values (_beat.runner_id, _beat.host, _beat.pid, _beat.tasks,
          clock_timestamp() - _beat.blocked_for)
  on conflict on constraint runner_pkey do update
    set seen_at = clock_timestamp(), tasks = excluded.tasks, suspected_at = null,
        blocked_since = excluded.blocked_since;
  return true;
end;
$$;

comment on function notika._beat(text, text, integer, text[], interval) is
  'A runner''s sign of life; without one for a minute its jobs are given to others. False: a task has '
  'blocked its event loop for so long that this one does not count.';

create or replace function notika._leave(runner_id text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  delete from notika.runner as r where r.runner_id = _leave.runner_id;
  perform notika_worker.force_unlock_workers(array[_leave.runner_id]);
end;
$$;

comment on function notika._leave(text) is 'A runner stops: what it still holds is free at once.';
