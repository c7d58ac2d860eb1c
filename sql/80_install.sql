-- install(): puts right whatever is derived, and says what it did; as often as one likes.

create or replace function notika.install()
  returns table (step text, outcome text, detail text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set lock_timeout = '3s'
as $$
declare
  v_workflow notika.workflow;
  v_after notika.workflow;
  v_statement text;
  v_count integer;
begin
  return query select 'version', 'ok', format('notika %s on PostgreSQL %s', notika.version(),
                                               current_setting('server_version'));

  step := 'cursor';
  if not exists (select from notika.position) then
    -- Its own transaction is not in its own snapshot, so nothing that is captured from now on is.
    insert into notika.position (system_identifier, snapshot, low, horizon)
    select c.system_identifier, pg_current_snapshot(), notika._last_event_id(), 0
      from pg_control_system() as c;
    outcome := 'created';
    detail := 'events are handed over from now on';
  else
    outcome := 'ok';
    detail := format('%s events wait', (select l.events_waiting from notika.lag as l));
  end if;
  return next;

  select count(*) into v_count from notika_worker.migrations;
  return query select 'worker', 'ok', format('graphile-worker in schema notika_worker, revision %s', v_count);

  for v_workflow in
    select w.* from notika.workflow as w where w.unpublished_at is null order by w.name
  loop
    step := format('workflow %s', v_workflow.name);
    begin
      v_after := v_workflow;
      v_after.definition := notika._definition(v_workflow);
      v_count := 0;
      for v_statement in select s.statement from notika._steps(v_workflow, v_after) as s loop
        execute v_statement;
        v_count := v_count + 1;
      end loop;
      update notika.workflow as w
         set definition = v_after.definition
       where w.workflow_id = v_workflow.workflow_id and v_count > 0;
      outcome := case when v_count > 0 then 'repaired' else 'ok' end;
      detail := format('captures on %s', notika._quoted(v_workflow.relation));
    exception when others then
      outcome := 'failed';
      detail := format('%s; publish it again: %s', sqlerrm, notika._call(v_workflow));
    end;
    return next;
  end loop;

  -- What an earlier workflow may have left behind.
  for v_statement in
    select format('drop function %s cascade', p.oid::regprocedure)
      from pg_proc as p
     where p.pronamespace = 'notika'::regnamespace
       and p.proname ~ '^(_capture|payload)_[0-9]+$'
       and not exists (
         select from notika.workflow as w
          where w.unpublished_at is null
            and w.workflow_id = substring(p.proname from '[0-9]+$')::integer
       )
  loop
    execute v_statement;
    return query select 'orphan', 'removed', v_statement;
  end loop;
end;
$$;

comment on function notika.install() is
  'Creates what is missing and puts right what is not as it should be; says what it did and what it '
  'could not. Idempotent.';
