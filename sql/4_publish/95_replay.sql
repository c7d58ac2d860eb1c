-- Replay: captured events run again, as far as the ring remembers them.

create or replace function notika.replay(workflow text, since timestamptz)
  returns bigint
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (notika._submit_request('replay', jsonb_build_object(
    'workflow', replay.workflow, 'since', replay.since)) #>> '{}')::bigint;
end;
$$;

comment on function notika.replay(text, timestamptz) is
  'Runs the events of a workflow again that were captured since the given time, as copies with '
  'new ids, and returns their number. An error says how far the ring reaches back if that is not '
  'far enough.';

create or replace function notika._do_replay(workflow text, since timestamptz)
  returns bigint
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer := notika._published(_do_replay.workflow);
  v_oldest timestamptz;
  v_count bigint;
begin
  if _do_replay.since is null or _do_replay.since > clock_timestamp() then
    raise exception 'since is not a time that has passed: %', coalesce(_do_replay.since::text, 'null')
      using errcode = 'invalid_parameter_value',
            hint = format('For example: select notika.replay(%L, now() - interval ''2 hours'');',
                          _do_replay.workflow);
  end if;

  -- The ring has forgotten nothing before its third turn.
  if pg_sequence_last_value('notika.control_seq') >> 1 >= 3 then
    select min(o.captured_at) into v_oldest
      from (
        (select e.captured_at from notika.event_log_0 as e order by e.event_id limit 1)
        union all
        (select e.captured_at from notika.event_log_1 as e order by e.event_id limit 1)
        union all
        (select e.captured_at from notika.event_log_2 as e order by e.event_id limit 1)
      ) as o;
  end if;
  if _do_replay.since < v_oldest then
    raise exception 'the ring reaches back to % only', date_trunc('second', v_oldest)
      using errcode = 'no_data_found',
            detail = 'Older events are forgotten; notika.setting says how large the ring is.',
            hint = format('Events that it has: select notika.replay(%L, %L); rows that exist: '
                          'select notika.backfill(%1$L);', _do_replay.workflow, v_oldest);
  end if;

  perform pg_current_xact_id(); -- before the segment is read: see _append
  execute format(
    'insert into notika.event_log_%s (workflow_id, operation, new, old, truncated)
     select e.workflow_id, ''replay'', e.new, e.old, e.truncated
       from notika._event as e
      where e.workflow_id = $1 and e.captured_at >= $2 and e.operation <> ''replay''
        -- Events that are not dispatched yet will run anyway.
        and notika._dispatched(e.event_id, e.xid, e.workflow_id, notika._position())
      order by e.event_id', notika._segment(0))
    using v_workflow_id, _do_replay.since;
  get diagnostics v_count = row_count;
  perform notika._wake();
  return v_count;
end;
$$;

comment on function notika._do_replay(text, timestamptz) is 'Carries out replay for a runner.';
