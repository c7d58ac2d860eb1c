-- publish, plan, unpublish: the only functions that do DDL on users' tables. plan and publish
-- share everything up to the list of statements; publish then executes it, with a lock timeout.

create or replace function notika._as_called(
  workflow text,
  table_name text,
  operations text[],
  columns text[],
  watch text[],
  condition text,
  guard text,
  on_rename text,
  match text[]
)
  returns notika.workflow
  language plpgsql
  stable
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_call notika.workflow;
begin
  v_call.name := _as_called.workflow;
  v_call.table_name := _as_called.table_name;
  v_call.operations := _as_called.operations;
  v_call.columns := _as_called.columns;
  v_call.watch := _as_called.watch;
  v_call.condition := nullif(btrim(_as_called.condition), '');
  v_call.guard := _as_called.guard;
  v_call.on_rename := _as_called.on_rename;
  v_call.options := '{}';
  v_call.match := _as_called.match;
  begin
    v_call.relation := notika._table(_as_called.table_name);
  exception when invalid_parameter_value then
    v_call.relation := null; -- the error follows with all others
  end;
  return v_call;
end;
$$;

comment on function notika._as_called(
  text, text, text[], text[], text[], text, text, text, text[]
) is
  'A workflow as the arguments of publish describe it, whether correct or not.';

create or replace function notika._request_of(call notika.workflow, options jsonb, function regprocedure, given jsonb)
  returns jsonb
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_build_object(
    'workflow', (call).name, 'table_name', (call).table_name, 'operations', (call).operations,
    'columns', (call).columns, 'watch', (call).watch, 'condition', (call).condition,
    'guard', (call).guard, 'on_rename', (call).on_rename, 'match', (call).match,
    'options', _request_of.options, 'function', _request_of.function::oid::bigint, 'given', _request_of.given);
$$;

comment on function notika._request_of(notika.workflow, jsonb, regprocedure, jsonb) is
  'The arguments of publish in the form of a request.';

create or replace function notika._plan(caller name, request jsonb)
  returns table (statement text, lock text)
  language plpgsql
  volatile
  security definer -- it changes nothing, and reveals nothing that the catalog does not
  set search_path = pg_catalog, pg_temp
  set jit = off -- compilation would take longer than the queries run
  set quote_all_identifiers = off
as $$
declare
  v_before notika.workflow;
  v_after notika.workflow := notika._specify(_plan.caller, _plan.request);
begin
  select w.* into v_before from notika.workflow as w where w.name = v_after.name;
  v_after.workflow_id := coalesce(
    v_before.workflow_id,
    -- The id that publish would assign now.
    coalesce(pg_sequence_last_value(
      pg_get_serial_sequence('notika.workflow', 'workflow_id')::regclass), 0) + 1
  );
  v_after.fires_always := v_before.fires_always;
  v_after.capture := notika._form(v_after);
  v_after.definition := notika._definition(v_after);
  v_after.options := notika._check_options(
    v_after, coalesce(nullif(_plan.request -> 'options', 'null'), v_before.options, '{}'));
  return query select s.statement || ';', s.lock from notika._steps(v_before, v_after) as s;
  if v_after.options <> coalesce(v_before.options, '{}') then
    return query
      select format('select notika.configure(%L, %L);', v_after.name, v_after.options), null::text;
  end if;
end;
$$;

comment on function notika._plan(name, jsonb) is
  'What publishing would do for a caller, whose name is not checked: nothing is done.';

create or replace function notika.plan(
  workflow text,
  table_name text,
  operations text[] default '{insert}',
  columns text[] default null,
  watch text[] default null,
  condition text default null,
  guard text default 'block',
  on_rename text default 'follow',
  options jsonb default null,
  match text[] default null
)
  returns table (statement text, lock text)
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_call notika.workflow := notika._as_called(
    plan.workflow, plan.table_name, plan.operations, plan.columns, plan.watch, plan.condition,
    plan.guard, plan.on_rename, plan.match);
  v_function regprocedure;
begin
  perform set_config('lock_timeout', notika._lock_timeout('3s'), true);
  if v_call.condition is not null and v_call.relation is not null then
    v_function := notika._read_condition(v_call);
  end if;
  if v_call.relation is not null then
    return query
      select format('grant %s on %s to %I;', n.privilege, n.object, notika._owner()), null::text
        from notika._needed_rights(v_call.relation, v_function) as n
       where not n.is_had and (n.may_grant or n.privilege <> 'select');
  end if;
  return query
    select p.statement, p.lock
      from notika._plan(current_user, notika._request_of(v_call, plan.options, v_function, null)) as p;
  if v_function is not null then
    execute 'drop function pg_temp.notika_condition()';
  end if;
  perform set_config('lock_timeout', v_before, true);
exception when lock_not_available then
  perform notika._refuse_locked('plan', plan.workflow, plan.table_name);
end;
$$;

comment on function notika.plan(
  text, text, text[], text[], text[], text, text, text, jsonb, text[]
) is
  'Shows what publish would do with the same arguments: its grants, its statements, and the locks '
  'that they take. Changes nothing. No rows: publish would do nothing.';

create or replace function notika.publish(
  workflow text,
  table_name text,
  operations text[] default '{insert}',
  columns text[] default null,
  watch text[] default null,
  condition text default null,
  guard text default 'block',
  on_rename text default 'follow',
  options jsonb default null,
  match text[] default null
)
  returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_call notika.workflow := notika._as_called(
    publish.workflow, publish.table_name, publish.operations, publish.columns, publish.watch,
    publish.condition, publish.guard, publish.on_rename, publish.match);
  v_function regprocedure;
  v_given jsonb;
  v_outcome text;
begin
  perform set_config('lock_timeout', notika._lock_timeout('3s'), true);
  -- What only the caller may do is done with its rights: reading its text, and granting rights on
  -- its table.
  if v_call.condition is not null and v_call.relation is not null then
    v_function := notika._read_condition(v_call);
  end if;
  if v_call.relation is not null then
    v_given := notika._grant_missing(v_call.relation, v_function);
  end if;
  v_outcome := notika._submit_request_quietly(
    'publish', notika._request_of(v_call, publish.options, v_function, v_given)) #>> '{}';
  if v_function is not null then
    execute 'drop function pg_temp.notika_condition()';
  end if;
  perform set_config('lock_timeout', v_before, true);
  return v_outcome;
exception when lock_not_available then
  return notika._refuse_locked('publish', publish.workflow, publish.table_name);
end;
$$;

comment on function notika.publish(
  text, text, text[], text[], text[], text, text, text, jsonb, text[]
) is
  'Starts a run of workflow for each matching change of table_name (schema.table), or for several '
  'where options collect them. operations: of insert, update, delete; columns: what an event '
  'carries, null for the whole row; watch: an update counts only if one of these columns changes; '
  'condition: SQL over new and old, read with the rights of the caller; guard: block, warn, off; '
  'on_rename: follow, block; options: see notika.configure, null leaves them as they are. A '
  'workflow called name:source is a change that runs of name wait for, compared by the columns of '
  'match. Grants the owner of Notika what it lacks on the table, if the caller may. Returns '
  'published, changed or unchanged. Waits three seconds for its locks, or lock_timeout if that is '
  'less.';

create or replace function notika._do_publish(caller name, request jsonb)
  returns text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_before notika.workflow;
  v_after notika.workflow := notika._specify(_do_publish.caller, _do_publish.request);
  v_is_changed boolean;
begin
  perform notika._check_own_rights(v_after);
  perform notika._check_planning(v_after.relation, true);
  perform notika._check_workflow_of(v_after);
  if notika._workflow_of(v_after.name) is not null then
    perform notika._expect_decider(w, _do_publish.caller)
       from notika.workflow as w
      where w.name = notika._workflow_of(v_after.name);
  end if;

  -- One publisher of a workflow at a time; the row also assigns the id.
  insert into notika.workflow
    (name, table_name, operations, guard, on_rename, definition, unpublished_at)
  select v_after.name, v_after.table_name, v_after.operations, v_after.guard, v_after.on_rename,
         '{}', clock_timestamp()
   where not exists (select from notika.workflow as w where w.name = v_after.name)
  on conflict (name) do nothing;
  select w.* into v_before from notika.workflow as w where w.name = v_after.name for update;
  if v_before.unpublished_at is null then
    perform notika._expect_decider(v_before, _do_publish.caller);
  end if;
  v_after.workflow_id := v_before.workflow_id;
  v_after.given := notika._keep_given(v_before.given, _do_publish.request -> 'given', v_after);
  v_after.fires_always := v_before.fires_always;
  perform notika._hold_columns(v_after);
  v_after.capture := notika._form(v_after);
  v_after.definition := notika._definition(v_after);
  v_after.options := notika._check_options(
    v_after, coalesce(nullif(_do_publish.request -> 'options', 'null'), v_before.options));
  perform notika._suspend_guard(true);
  v_is_changed := notika._apply(v_before, v_after) > 0;
  perform notika._suspend_guard(false);

  update notika.workflow as w
     set table_name = v_after.table_name, -- and with it the relation
         operations = v_after.operations,
         columns = v_after.columns,
         column_names = v_after.column_names,
         watch = v_after.watch,
         condition = v_after.condition,
         condition_sql = v_after.condition_sql,
         condition_uses = v_after.condition_uses,
         capture = v_after.capture,
         guard = v_after.guard,
         on_rename = v_after.on_rename,
         definition = v_after.definition,
         is_pinned = v_after.is_pinned,
         options = v_after.options,
         match = v_after.match,
         given = v_after.given,
         broken_reason = null,
         unpublished_at = null,
         published_at = clock_timestamp(),
         published_by = _do_publish.caller,
         publisher_id = (select r.oid from pg_roles as r where r.rolname = _do_publish.caller),
         made_by = notika._code()
   where w.workflow_id = v_after.workflow_id
     and (v_is_changed
          or w.broken_reason is not null
          or (w.definition, w.guard, w.on_rename, w.table_name, w.columns, w.watch, w.condition,
              w.condition_uses, w.options, w.match, w.given)
             is distinct from
             (v_after.definition, v_after.guard, v_after.on_rename, v_after.table_name,
              v_after.columns, v_after.watch, v_after.condition, v_after.condition_uses,
              v_after.options, v_after.match, v_after.given));
  v_is_changed := found;
  -- What this transaction did to the table before is settled by this, and a migration whose
  -- snapshot is older than this must not judge.
  perform notika._bind(v_after.workflow_id);
  delete from notika.guard_pending as p where p.workflow_id = v_after.workflow_id;
  update notika.guard_state as s set publications = s.publications + 1;

  if notika._workflow_of(v_after.name) is not null then
    perform notika._refresh_capture(notika._workflow_of(v_after.name));
    if v_before.unpublished_at is not null or v_before.match is distinct from v_after.match then
      perform notika._rematch_signals(v_after.workflow_id);
    end if;
  end if;

  -- The runs of a broken workflow are held.
  if v_before.broken_reason is not null and v_before.paused_at is null then
    perform notika._resume(v_after.name);
  end if;
  if v_after.options <> v_before.options then
    perform notika._set_schedule(v_after.workflow_id, v_after.options -> 'schedule');
    perform notika._advance(v_after.workflow_id);
  end if;

  return case
    when v_before.unpublished_at is not null then 'published'
    when v_is_changed then 'changed'
    else 'unchanged'
  end;
end;
$$;

comment on function notika._do_publish(name, jsonb) is 'Carries out publish for a caller.';

create or replace function notika._refresh_capture(workflow text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_workflow notika.workflow;
  v_statement text;
begin
  select w.* into v_workflow
    from notika.workflow as w
   where w.name = _refresh_capture.workflow
     and w.unpublished_at is null and w.broken_reason is null and w.table_name is not null
     for update;
  if not found then
    return;
  end if;

  v_statement := notika._capture_definition(v_workflow);
  if v_statement <> all (v_workflow.definition) then
    perform notika._suspend_guard(true);
    execute v_statement; -- the function alone: it takes no lock on the table
    perform notika._suspend_guard(false);
    update notika.workflow as w
       set definition = array(
             select case when d.statement ~ '^create or replace function notika\._capture_'
                         then v_statement else d.statement end
               from unnest(v_workflow.definition) with ordinality as d (statement, place)
              order by d.place
           )
     where w.workflow_id = v_workflow.workflow_id;
  end if;
end;
$$;

comment on function notika._refresh_capture(text) is
  'Makes the events of a workflow record what they could see, as long as it has sources.';

create or replace function notika._warn_of_waits(spec notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_count bigint;
begin
  select count(*) into v_count from notika.wait as w where w.source_id = (spec).workflow_id;
  if v_count > 0 then
    raise warning '% waits for "%" end only by their timeouts while it is not published',
      v_count, (spec).name
      using hint = format('Publish it again, or end their runs: select notika.cancel(w.run_id) '
                          'from notika.wait as w where w.source_id = %s;', (spec).workflow_id);
  end if;
end;
$$;

comment on function notika._warn_of_waits(notika.workflow) is
  'Warns of runs that wait for a source that is unpublished.';

create or replace function notika.unpublish(workflow text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before constant text := current_setting('lock_timeout');
begin
  perform set_config('lock_timeout', notika._lock_timeout('3s'), true);
  perform notika._revoke_given(
    notika._submit_request_quietly('unpublish', jsonb_build_object('workflow', unpublish.workflow)));
  perform set_config('lock_timeout', v_before, true);
exception when lock_not_available then
  perform notika._refuse_locked('unpublish', unpublish.workflow, (
    select w.table_name from notika.workflows as w where w.workflow = unpublish.workflow));
end;
$$;

comment on function notika.unpublish(text) is
  'Drops the triggers and functions of a workflow and of its sources, and revokes what publish '
  'granted for it if the caller may. What was captured before still runs.';

create or replace function notika._do_unpublish(caller name, workflow text)
  returns json
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set client_min_messages = warning -- the triggers that are dropped by CASCADE are intended
as $$
declare
  v_workflow_id integer;
  v_workflow notika.workflow;
  v_source text;
  v_unneeded jsonb := '[]'::jsonb;
begin
  -- A source may have been unpublished with its workflow a moment ago.
  if exists (
    select from notika.workflow as w
     where w.name = _do_unpublish.workflow and notika._workflow_of(w.name) is not null
       and w.unpublished_at is not null
  ) then
    return '[]'::json;
  end if;
  v_workflow_id := notika._published(_do_unpublish.workflow);
  select w.* into v_workflow
    from notika.workflow as w
   where w.workflow_id = v_workflow_id
     for update;
  perform notika._expect_decider(coalesce((
    select w from notika.workflow as w
     where w.name = notika._workflow_of(v_workflow.name) and notika._may_decide(w, _do_unpublish.caller)
  ), v_workflow), _do_unpublish.caller);
  for v_source in
    select s.name from notika.workflow as s
     where starts_with(s.name, _do_unpublish.workflow || ':') and s.unpublished_at is null
     order by s.name
  loop
    v_unneeded := v_unneeded || notika._unpublish(v_source)::jsonb;
  end loop;
  return v_unneeded || notika._unpublish(v_workflow.name)::jsonb;
end;
$$;

comment on function notika._do_unpublish(name, text) is
  'Carries out unpublish for a caller, and returns what was granted for the workflow and is no '
  'longer needed.';

create or replace function notika._unpublish(workflow text)
  returns json
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow notika.workflow;
begin
  select w.* into v_workflow from notika.workflow as w where w.name = _unpublish.workflow for update;
  perform notika._warn_of_waits(v_workflow);
  perform notika._resume(v_workflow.name);

  perform notika._unpin(v_workflow.workflow_id);
  delete from notika.contract as c where c.workflow_id = v_workflow.workflow_id;
  delete from notika.contract_table as c where c.workflow_id = v_workflow.workflow_id;
  delete from notika.guard_pending as p where p.workflow_id = v_workflow.workflow_id;
  perform notika._set_schedule(v_workflow.workflow_id, null);
  perform notika._end_backfill(b.backfill_id, 'cancelled')
     from notika.backfill as b
    where b.workflow_id = v_workflow.workflow_id and b.finished_at is null;

  update notika.workflow as w
     set definition = '{}', options = w.options - 'schedule', broken_reason = null, given = '[]',
         fires_always = false, unpublished_at = clock_timestamp()
   where w.workflow_id = v_workflow.workflow_id;
  if notika._workflow_of(v_workflow.name) is not null then
    perform notika._refresh_capture(notika._workflow_of(v_workflow.name));
  end if;
  return notika._unneeded(v_workflow);
end;
$$;

comment on function notika._unpublish(text) is
  'Removes a workflow, and returns what was granted for it and is no longer needed.';
