-- The verdict: the event triggers queue the workflows that a command touched in guard_pending, and
-- a deferred constraint trigger judges each of them once when the transaction commits.
-- Only a verdict (NK001), a serialization failure, a deadlock or a lock timeout may make the commit
-- fail; any other error is reported as a warning.

create or replace function notika._would_refuse(workflow_id integer)
  returns text[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_spec notika.workflow;
begin
  select w.* into v_spec from notika.workflow as w where w.workflow_id = _would_refuse.workflow_id;
  -- Usually there is no finding, and these queries show that faster than _findings.
  if v_spec.is_pinned and v_spec.table_name = notika._quoted(v_spec.relation)
     and not exists (
       select from notika.contract as c
         left join pg_attribute as a
           on a.attrelid = v_spec.relation and a.attnum = c.attnum and not a.attisdropped
        where c.workflow_id = v_spec.workflow_id
          and ((c.column_name, c.type, c.typmod) is distinct from (a.attname::text, a.atttypid, a.atttypmod)
               or c.labels is not null or c.attributes is not null)
     )
     and not exists (select from pg_inherits as i where i.inhparent = v_spec.relation)
     and cardinality(v_spec.operations) = (
       select count(*)
         from unnest(v_spec.operations) as o (name)
         join pg_trigger as t
           on t.tgrelid = v_spec.relation and t.tgname = format('notika_%s_%s', v_spec.workflow_id, o.name)
     )
  then
    return array[]::text[];
  end if;
  return array(
    select concat_ws(' ', f.kind, f.object)
      from notika._try_findings(v_spec) as f
     where notika._is_breaking(f.kind) or notika._is_rename(f.kind)
     order by 1
  );
end;
$$;

comment on function notika._would_refuse(integer) is
  'The findings at this moment that may be refused or followed: each kind and object.';

create or replace function notika._report_failure(
  workflow_id integer,
  doing text,
  statement text,
  message text,
  state text
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
begin
  select w.* into v_spec from notika.workflow as w where w.workflow_id = _report_failure.workflow_id;
  perform notika._note(v_spec, 'warned', 'not_judged', v_spec.table_name, 'a comparison with the catalog',
                       format('%s (%s)', message, state), statement, doing);
end;
$$;

comment on function notika._report_failure(integer, text, text, text, text) is
  'Reports, as a warning and in guard_log, that the guard failed for a workflow, so that the other '
  'workflows are still judged.';

create or replace function notika._guard_at_commit()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set jit = off -- compilation would take longer than the queries run
  set quote_all_identifiers = off
as $$
begin
  -- One verdict for all entries of a workflow: the first one deletes the others.
  if not exists (select from notika.guard_pending as p where p.pending_id = new.pending_id) then
    return null;
  end if;
  begin
    if not exists (
      select from notika.guard_pending as p
       where p.workflow_id = new.workflow_id and p.dropped is not null
    ) then
      begin
        perform notika._reconcile(new.workflow_id, new.statement, true);
      exception
        when undefined_object or undefined_function or insufficient_privilege or sqlstate 'NK002' then
          null; -- an object it needs was dropped, or a right is missing: _judge reports that
      end;
    end if;
    perform notika._judge(new.workflow_id, new.statement, 'commit');
  exception
    when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
      raise;
    -- If the contract could not be compared with the catalog, refuse nothing.
    when others then
      perform notika._report_failure(new.workflow_id, new.tag, new.statement, sqlerrm, sqlstate);
  end;
  delete from notika.guard_pending as p where p.workflow_id = new.workflow_id;
  return null;
exception
  when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others then
    raise warning 'notika could not check %: % (%)', new.tag, sqlerrm, sqlstate
      using hint = 'The command continues. Check the result: select * from notika.check();';
    delete from notika.guard_pending as p where p.workflow_id = new.workflow_id;
    return null;
end;
$$;

comment on function notika._guard_at_commit() is
  'Judges the result of a transaction for a workflow''s contract, at commit.';

create or replace function notika._note_judged(spec notika.workflow, statement text)
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  select notika._record(spec, 'repaired', 'not_judged', (spec).table_name, _note_judged.statement)
   where notika._not_judged(spec) is not null and not exists (
     select from notika.guard_log as l
      where l.workflow = (spec).name and l.kind = 'not_judged' and l.at > (spec).published_at
        and l.xid = pg_current_xact_id()
   );
$$;

comment on function notika._note_judged(notika.workflow, text) is
  'Records that a workflow could be judged again after the guard had failed for it.';

create or replace function notika._judge(workflow_id integer, statement text, occasion text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
  v_finding record;
  v_verdict text;
  v_statement text;
begin
  select w.* into v_spec
    from notika.workflow as w
   where w.workflow_id = _judge.workflow_id and w.unpublished_at is null and w.table_name is not null;
  if not found then
    return;
  end if;

  if v_spec.broken_reason is not null then
    if not exists (
      select from notika._try_findings(v_spec) as f
       where notika._is_breaking(f.kind) or notika._is_rename(f.kind) or f.kind = 'not_judged'
    ) then
      update notika.workflow as w set broken_reason = null where w.workflow_id = v_spec.workflow_id;
      perform notika._record(v_spec, 'repaired', null, v_spec.table_name, statement);
      if v_spec.paused_at is null then
        perform notika._resume(v_spec.name);
      end if;
    end if;
    perform notika._note_judged(v_spec, statement);
    return;
  end if;

  for v_finding in
    with found as materialized (select f.* from notika._try_findings(v_spec) as f)
    select f.*
      from found as f
     -- A dropped trigger is only a consequence of another breaking finding.  A condition with
     -- another meaning does not drop a trigger.
     where f.kind <> 'trigger_dropped' or not exists (
       select from found as o
        where notika._is_breaking(o.kind) and o.kind not in ('trigger_dropped', 'condition_changed')
     )
     order by f.kind = 'trigger_dropped', notika._is_breaking(f.kind) desc
  loop
    v_verdict := case
      when occasion = 'commit' then notika._verdict(v_spec, v_finding.kind)
      when notika._is_breaking(v_finding.kind) then 'broken'
      when v_finding.kind = 'type_narrowed' then 'followed'
      else 'warned'
    end;
    v_statement := notika._statement_of(
      v_spec.workflow_id, v_finding.kind, v_finding.object, _judge.statement);
    if v_verdict = 'blocked' then
      perform notika._refuse(v_spec, v_finding.kind, v_finding.object, v_finding.expected,
                             v_finding.actual, v_statement);
    end if;
    perform notika._note(v_spec, v_verdict, v_finding.kind, v_finding.object,
                         v_finding.expected, v_finding.actual, v_statement, (
                           select min(p.tag) from notika.guard_pending as p
                            where p.workflow_id = v_spec.workflow_id
                         ));
  end loop;
  perform notika._note_judged(v_spec, statement);
end;
$$;

comment on function notika._judge(integer, text, text) is
  'Compares a workflow with its contract. At commit it may refuse the transaction; at other times '
  'it marks the workflow as broken, or as no longer broken.';

create or replace function notika._verdict(spec notika.workflow, kind text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case
           when exists (
             select from notika.maintenance as m
              where m.ended_at is null and m.ends_at > clock_timestamp()
           ) or exists (
             select from notika.guard_log as l
              where l.xid = pg_current_xact_id_if_assigned()
                and l.workflow = (spec).name and l.verdict = 'allowed' and l.reason is not null
           ) then 'allowed'
           when kind = 'type_narrowed' then 'followed' -- no event looks different
           when not notika._is_breaking(kind) and not notika._is_rename(kind) then 'warned'
           when notika._is_rename(kind) and (spec).on_rename = 'follow' then 'followed'
           when (spec).guard = 'off' then 'ignored'
           -- condition_changed need not be caused by this transaction.
           when (spec).guard = 'warn' or kind = 'condition_changed' then 'warned'
           else 'blocked'
         end;
$$;

comment on function notika._verdict(notika.workflow, text) is
  'What the guard does about a finding of this kind in this transaction.';

create or replace function notika._ways_out(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner constant name := notika._owner();
  v_caller constant name := notika._session_role();
  v_caller_id oid := (select r.oid from pg_roles as r where r.rolname = v_caller);
  v_is_member boolean := coalesce(pg_has_role(v_caller_id, v_owner, 'member'), false);
  v_has_part boolean := coalesce(
    has_schema_privilege(v_caller_id, 'notika'::regnamespace, 'usage')
    and has_function_privilege(v_caller_id, 'notika.allow_breaking_change(text,text)', 'execute'), false);
  -- A dropped table was dropped by its owner.
  v_may_decide boolean := coalesce(
    notika._quoted(spec.relation) is null or notika._may_decide(spec, v_caller), false);
begin
  if not v_may_decide then
    return format(
      'Role "%s" may not decide about this workflow. Before the next try let a member of %s run: '
      'select notika.unpublish(%L); or let a member of "%s" run: '
      'select notika.begin_maintenance(''<reason>'');',
      v_caller,
      (select string_agg(distinct format('"%s"', r.rolname), ' or ')
         from pg_roles as r
        where r.oid = spec.publisher_id or r.rolname = v_owner
           or r.oid = (select c.relowner from pg_class as c where c.oid = spec.relation)),
      spec.name, v_owner);
  end if;
  return concat_ws(' ',
    case when v_has_part then 'In the same transaction'
         else format('Role "%s" may not call Notika: let a member of "%s" run: '
                     'select notika.grant_publisher(%L); After that, in the same transaction,',
                     v_caller, v_owner, quote_ident(v_caller)) end,
    format('publish the workflow again, or run: select notika.unpublish(%1$L); or: '
           'select notika.allow_breaking_change(%1$L, ''<reason>'');', spec.name),
    'A tool that commits each statement has committed those before this one: undo them, and before the '
    'next try',
    case when not v_is_member then format('let a member of "%s"', v_owner) end,
    'run: select notika.begin_maintenance(''<reason>'');');
end;
$$;

comment on function notika._ways_out(notika.workflow) is
  'The hint of a refusal: what the session''s role can do, or which role can.';

create or replace function notika._refuse(
  spec notika.workflow,
  kind text,
  object text,
  expected text,
  actual text,
  statement text
)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  -- The name without quotes; the message adds them.
  v_column text := case when kind in ('column_dropped', 'column_renamed', 'type_changed', 'label_renamed')
                        then (parse_ident(substr(object, length(spec.table_name) + 2)))[1] end;
begin
  if kind = 'right_missing' then
    raise exception 'role "%" may not % %, which Notika''s workflow "%" has to capture',
        current_user, case expected when 'trigger' then 'create triggers on' else 'use' end, object, spec.name
      using errcode = 'NK001',
            detail = format(E'Workflow "%s" is published on %s for %s.\nStatement: %s', spec.name,
                            spec.table_name, array_to_string(spec.operations, ', '), statement),
            hint = format('In the same transaction, as the owner of it, run: grant %s on %s to %I;',
                          expected, object, current_user),
            table = spec.table_name;
  end if;
  raise exception '%', case kind
      when 'table_dropped' then format('cannot drop table %s', object)
      when 'table_replaced' then format('cannot replace table %s by another', object)
      when 'table_renamed' then format('cannot rename table %s to %s', object, actual)
      when 'column_dropped' then format('cannot drop column "%s" of table %s', v_column, spec.table_name)
      when 'column_renamed' then format('cannot rename column "%s" of table %s to "%s"',
                                        v_column, spec.table_name, actual)
      when 'type_changed' then format('cannot change the type of column "%s" of table %s from %s to %s',
                                      v_column, spec.table_name, expected, actual)
      when 'label_renamed' then format('cannot rename a label of the type of column "%s" of table %s',
                                       v_column, spec.table_name)
      else format('cannot drop trigger %s', object)
    end || format(' because Notika''s workflow "%s" uses it', spec.name)
    using errcode = 'NK001',
          detail = format(E'Workflow "%s" is published on %s for %s%s.\nStatement: %s',
                     spec.name, spec.table_name, array_to_string(spec.operations, ', '),
                     coalesce(' with the columns ' || array_to_string(spec.columns, ', '), ''),
                     statement),
          hint = notika._ways_out(spec),
          table = spec.table_name,
          column = coalesce(v_column, '');
end;
$$;

comment on function notika._refuse(notika.workflow, text, text, text, text, text) is
  'Raises the error for a change that breaks a workflow. The hint names the ways out.';

create or replace function notika._note(
  spec notika.workflow,
  verdict text,
  kind text,
  object text,
  expected text,
  actual text,
  statement text,
  doing text default null
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Report a finding once after a publish.  Report a breaking finding each time: the workflow must
  -- have been repaired in between.  The same holds for one that could not be judged.
  if notika._is_breaking(kind) or notika._is_rename(kind) and verdict <> 'followed' or not exists (
    select from notika.guard_log as l
     where l.workflow = spec.name and l.at > spec.published_at
       and (l.kind, l.object, l.actual) is not distinct from (_note.kind, _note.object, _note.actual)
       and (l.kind is distinct from 'not_judged' or notika._not_judged(spec) is not null)
  ) then
    insert into notika.guard_log (workflow, verdict, kind, object, expected, actual, statement)
    values (spec.name, _note.verdict, _note.kind, _note.object, _note.expected, _note.actual,
            _note.statement);
    if verdict = 'warned' and kind <> 'not_judged' then
      raise warning 'Notika''s workflow "%": % %', spec.name, replace(kind, '_', ' '), object
        using detail = format('Expected %s, found %s.', coalesce(expected, 'nothing'),
                              coalesce(actual, 'nothing')),
              hint = format('See: select * from notika.health where workflow = %L;', spec.name);
    end if;
  end if;
  if kind = 'not_judged' then
    raise warning 'notika could not check % for workflow "%": %',
        coalesce(doing, 'the contract'), spec.name, actual
      using detail = 'The other workflows were checked.',
            hint = case
              when doing is not null
                then 'The command continues. Check the result: select * from notika.check();'
              else format('See: select * from notika.health where workflow = %L;', spec.name) end;
  end if;

  if notika._is_breaking(kind) or notika._is_rename(kind) and verdict <> 'followed' then
    perform notika._break(spec.workflow_id, format('%s: %s', replace(kind, '_', ' '), object));
  elsif kind in ('type_widened', 'type_narrowed') then
    update notika.contract as c
       set type_name = format_type(a.atttypid, a.atttypmod), type = a.atttypid, typmod = a.atttypmod,
           labels = notika._labels(a.atttypid), label_ids = notika._label_ids(a.atttypid),
           attributes = notika._attributes(a.atttypid)
      from pg_attribute as a
     where c.workflow_id = spec.workflow_id and a.attrelid = spec.relation and a.attnum = c.attnum
       and not a.attisdropped and object = format('%s.%I', spec.table_name, c.column_name);
  end if;
end;
$$;

comment on function notika._note(notika.workflow, text, text, text, text, text, text, text) is
  'Records a finding, raises a warning if the verdict is warned, and marks the workflow as broken '
  'if it cannot continue.';

create or replace function notika._break(workflow_id integer, reason text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  update notika.workflow as w
     set broken_reason = coalesce(w.broken_reason, _break.reason)
   where w.workflow_id = _break.workflow_id;
  perform notika._hold_jobs();
end;
$$;

comment on function notika._break(integer, text) is
  'Marks a workflow as broken, which holds its runs. Its changes are still captured.';

create or replace function notika._judges_always()
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from pg_trigger as t
     where t.tgrelid = 'notika.guard_pending'::regclass and t.tgname = 'guard_at_commit'
       and t.tgenabled = 'A'
  );
$$;

comment on function notika._judges_always() is
  'Whether the constraint trigger also fires under session_replication_role = replica. After '
  'pg_restore --disable-triggers it does not.';

drop trigger if exists guard_at_commit on notika.guard_pending;

create constraint trigger guard_at_commit
  after insert on notika.guard_pending
  deferrable initially deferred
  for each row
  execute function notika._guard_at_commit();

-- Fire under session_replication_role = replica too, like the event triggers.
-- pgls-ignore lint/safety/lockTimeoutWarning: no application uses this table
alter table notika.guard_pending enable always trigger guard_at_commit;
