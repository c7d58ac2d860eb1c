-- Waits for changes, from the side of a run. A wait is ended by a signal that is there already, by
-- a later one, or by its timeout. The transaction that deletes the wait decides; the step that it
-- writes stands.

create or replace function notika._deliver_signals(event_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._lock_signals(for_hand_over => true);
  perform notika._lock_lines();
  perform notika._store_signals(event_ids);
  perform notika._cancel_matched(event_ids);
  perform notika._wake_matched(event_ids);
end;
$$;

comment on function notika._deliver_signals(bigint[]) is
  'Delivers events of sources to the runs that wait for them, and to those that they end. Called '
  'before any lock that the end of a run takes.';

create or replace function notika._wake_matched(event_ids bigint[])
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set enable_sort = on -- which dispatch, that sorts nothing else, is better off without
as $$
declare
  v_runs bigint[];
begin
  with matched as materialized (
    select distinct on (w.run_id, w.name) w.run_id, w.name, s.event_id, s.event
      from notika.signal as s
     cross join lateral (
       select a.*
         from notika.wait as a
        where a.source_id = s.source_id and a.match_values = s.match_values
       offset 0 -- looked up for each, whatever the planner estimates
     ) as w
     where s.event_id = any (_wake_matched.event_ids)
       and not notika._has_got(w.run_id, w.created_at, s.event_id)
     order by w.run_id, w.name, s.event_id
  ), over as materialized (
    select w.run_id, w.name, w.created_at, m.event_id, m.event
      from matched as m
      join notika.wait as w on w.run_id = m.run_id and w.name = m.name
       -- A session that holds the lock on a wait ends it: by its timeout, after which it looks for
       -- a signal itself, or with the run.
       for update of w skip locked
  )
  select array_agg(o.run_id) into v_runs
    from (select * from over order by event_id) as o
   cross join lateral notika._end_wait(o.run_id, o.name, o.created_at, o.event_id, o.event);

  if v_runs is not null then
    perform notika._end_sleep(v_runs);
  end if;
end;
$$;

comment on function notika._wake_matched(bigint[]) is
  'Ends the waits for these signals, each with the first signal that it matches.';

create or replace function notika._rematch_signals(source_id integer)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_source notika.workflow;
  v_workflow text;
begin
  select w.* into v_source from notika.workflow as w where w.workflow_id = _rematch_signals.source_id;
  v_workflow := notika._workflow_of(v_source.name);
  if exists (select from notika.wait as w where w.source_id = v_source.workflow_id)
     or exists (select from notika.signal as s where s.source_id = v_source.workflow_id)
  then
    perform notika._lock_signals(for_hand_over => true);
    delete from notika.signal as s
     where s.source_id = v_source.workflow_id
       and notika._match_values(s.event, notika._match_keys(v_source.match)) is null;
    update notika.signal as s
       set match_values = notika._match_values(s.event, notika._match_keys(v_source.match))
     where s.source_id = v_source.workflow_id;
  end if;

  perform notika._listen(array(
    select j.key::bigint
      from notika._job as j
      join notika._task as t on t.task_id = j.task_id
     where t.workflow = v_workflow and j.key is not null
  ));
  -- A wait holds only its values: its run begins it again.
  perform notika._end_sleep(array(
    select w.run_id from notika.wait as w where w.source_id = v_source.workflow_id
  ));
end;
$$;

comment on function notika._rematch_signals(integer) is
  'Called when a source was published, or compares other columns: updates the unfinished runs.';

create or replace function notika._has_got(run_id bigint, begun_at timestamptz, event_id bigint)
  returns boolean
  language sql
  stable
begin atomic
  select exists (
    select from notika.step as s
     where s.run_id = _has_got.run_id
       and s.event_id = _has_got.event_id
       and s.finished_at < _has_got.begun_at
  );
end;

comment on function notika._has_got(bigint, timestamptz, bigint) is
  'Whether the run received this event from a wait that was over when another one began: the next '
  'wait gets the next event.';

create or replace function notika._end_wait(
  run_id bigint,
  name text,
  started_at timestamptz,
  event_id bigint,
  event json
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  insert into notika.step as s (run_id, name, state, result, event_id, started_at)
  values (
    _end_wait.run_id, _end_wait.name, 'done', _end_wait.event, _end_wait.event_id,
    _end_wait.started_at
  )
  on conflict on constraint step_pkey do update
    set state = excluded.state, result = excluded.result, event_id = excluded.event_id,
        error = null, step_id = nextval('notika.step_id_seq'), finished_at = clock_timestamp()
    where s.state = 'retrying'; -- in the code of that time it was not a wait
  delete from notika.wait as w where w.run_id = _end_wait.run_id and w.name = _end_wait.name;
end;
$$;

comment on function notika._end_wait(bigint, text, timestamptz, bigint, json) is
  'Turns a wait into a step whose result is the event, or null.';

create or replace function notika._first_signal(wait notika.wait)
  returns table (event_id bigint, event json)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select s.event_id, s.event
    from notika.signal as s
    left join notika.listener as l on l.run_id = (wait).run_id
   where s.source_id = (wait).source_id
     and s.match_values = (wait).match_values
     and notika._is_later(s.event_id, s.xid, (wait).run_id, l.xid, l.snapshot)
     and not notika._has_got((wait).run_id, (wait).created_at, s.event_id)
   order by s.event_id
   limit 1;
$$;

comment on function notika._first_signal(notika.wait) is
  'The first signal that ends a wait, of those that were dispatched.';

create or replace function notika._first_on_its_way(wait notika.wait)
  returns table (event_id bigint, event json)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_here notika.position := notika._position();
begin
  -- As in dispatch: there is nothing new, and no transaction that was running has ended.
  if notika._last_event_id() = v_here.low and v_here.burst_ids = '{}' and not exists (
    select from unnest(v_here.pending_xids) as p (xid)
     where pg_visible_in_snapshot(p.xid, pg_current_snapshot())
  ) then
    return;
  end if;

  return query
  select e.event_id, p.event
    from notika._event as e
    join notika.workflow as w on w.workflow_id = e.workflow_id
    left join notika.listener as l on l.run_id = (wait).run_id
   cross join lateral (
     select notika._payload(e, w.name, coalesce(notika._quoted(w.relation), w.table_name))
   ) as p (event)
   where e.event_id > notika._bound(v_here)
     and e.workflow_id = (wait).source_id
     and not notika._dispatched(e.event_id, e.xid, e.workflow_id, v_here)
     and notika._is_later(e.event_id, e.xid, (wait).run_id, l.xid, l.snapshot)
     and notika._match_values(p.event, notika._match_keys(w.match)) = (wait).match_values
     and not notika._has_got((wait).run_id, (wait).created_at, e.event_id)
   order by e.event_id
   limit 1;
end;
$$;

comment on function notika._first_on_its_way(notika.wait) is
  'The first event that would end a wait, of those that are committed and not dispatched yet.';

create or replace function notika._match_past_signals(run_id bigint)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._end_wait(w.run_id, w.name, w.created_at, f.event_id, f.event)
     from notika.wait as w
    cross join lateral notika._first_signal(w) as f
    where w.run_id = _match_past_signals.run_id and w.source_id is not null
    order by f.event_id;
end;
$$;

comment on function notika._match_past_signals(bigint) is
  'Ends the waits of a run whose signals are there already. Requires the lock of _lock_signals.';

create or replace function notika._time_out(run_id bigint)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_wait notika.wait;
  v_event_id bigint;
  v_event json;
begin
  for v_wait in
    select w.* from notika.wait as w
     where w.run_id = _time_out.run_id
       and w.source_id is not null and w.wake_at <= clock_timestamp()
     order by w.wake_at, w.name
       for update
  loop
    -- No other session can end it now. The change may have been in time and its dispatch late, if
    -- no runner was there.
    select f.event_id, f.event into v_event_id, v_event
      from (
        select * from notika._first_signal(v_wait)
        union all
        select * from notika._first_on_its_way(v_wait)
      ) as f
     order by f.event_id
     limit 1;
    perform notika._end_wait(v_wait.run_id, v_wait.name, v_wait.created_at, v_event_id, v_event);
  end loop;
end;
$$;

comment on function notika._time_out(bigint) is
  'Ends the waits of a run that have timed out, with the event if there is one, otherwise with '
  'null.';

create or replace function notika._find_source(workflow text, wait json)
  returns table (source_id integer, match_values text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_declared notika.workflow;
  v_source notika.workflow;
begin
  if wait -> 'source' is null then
    return; -- it waits for time
  end if;

  v_declared.name := format('%s:%s', _find_source.workflow, wait #>> '{source,name}');
  v_declared.table_name := wait #>> '{source,table}';
  v_declared.operations := notika._text_array(wait #> '{source,operations}');
  v_declared.columns := notika._text_array(wait #> '{source,columns}');
  v_declared.condition := wait #>> '{source,condition}';
  v_declared.match := notika._text_array(wait #> '{source,match}');
  v_declared.guard := 'block';
  v_declared.on_rename := 'follow';

  select w.* into v_source
    from notika.workflow as w
   where w.name = v_declared.name and w.unpublished_at is null;
  if not found then
    raise exception 'step "%" waits for "%", which is not published',
      wait ->> 'name', v_declared.name
      using errcode = 'invalid_parameter_value',
            hint = format('Run: npx notika publish %s, or: %s',
                          _find_source.workflow, notika._publish_call(v_declared));
  end if;
  if not (coalesce(v_source.match, '{}') @> coalesce(v_declared.match, '{}')
          and coalesce(v_source.match, '{}') <@ coalesce(v_declared.match, '{}'))
  then
    raise exception 'step "%" waits for "%", which is published with match %, not %',
      wait ->> 'name', v_declared.name,
      coalesce(v_source.match, '{}'), coalesce(v_declared.match, '{}')
      using errcode = 'invalid_parameter_value',
            hint = format('Run: npx notika publish %s, or: %s',
                          _find_source.workflow, notika._publish_call(v_declared));
  end if;

  source_id := v_source.workflow_id;
  match_values := notika._index_key((
    select coalesce(jsonb_agg(wait -> 'match' ->> k.key order by k.place), '[]')
      from unnest(notika._match_keys(v_source.match)) with ordinality as k (key, place)
  ));
  return next;
end;
$$;

comment on function notika._find_source(text, json) is
  'The source that a run waits for, {source: {name, table, match, ...}, match: {key: value}}, or '
  'an error with the call that publishes it.';

create or replace function notika._listen_again(run_id bigint)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow notika.workflow;
begin
  select w.* into v_workflow
    from notika._job as j
    join notika._task as t on t.task_id = j.task_id
    join notika.workflow as w on w.name = t.workflow
   where j.key = _listen_again.run_id::text;
  if not notika._has_sources(v_workflow.name) then
    return;
  end if;

  perform notika._lock_signals(for_hand_over => false);
  -- While the run was over, signals may have been forgotten that the ring still has; those that an
  -- older run may need were not.
  if not exists (
    select from notika.listener as l
     where l.workflow_id = v_workflow.workflow_id and l.run_id < _listen_again.run_id
  ) then
    perform notika._store_signals(array(
      select e.event_id
        from notika._event as e
       where e.event_id > _listen_again.run_id
         and e.workflow_id in (
           select s.workflow_id from notika.workflow as s
            where starts_with(s.name, v_workflow.name || ':')
         )
         and notika._dispatched(e.event_id, e.xid, e.workflow_id, notika._position())
    ));
  end if;
  perform notika._listen(array[_listen_again.run_id]);
end;
$$;

comment on function notika._listen_again(bigint) is
  'Called when a run that had ended continues: what has happened since may count for it, but does '
  'not cancel it.';
