-- Reconciles a workflow with its changed table: binds the contract to replaced objects, creates
-- missing functions and triggers, and follows renames.  It refuses nothing; _judge does.

create or replace function notika._bring_into_form(before notika.workflow, after notika.workflow)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_after notika.workflow := _bring_into_form.after;
begin
  perform notika._hold_columns(v_after);
  v_after.capture := notika._form(v_after);
  v_after.definition := notika._definition(v_after);
  perform notika._suspend_guard(true);
  perform notika._apply(before, v_after);
  perform notika._suspend_guard(false);
  update notika.workflow as w
     set definition = v_after.definition, is_pinned = v_after.is_pinned, capture = v_after.capture
   where w.workflow_id = v_after.workflow_id;
end;
$$;

comment on function notika._bring_into_form(notika.workflow, notika.workflow) is
  'Creates the functions and triggers of a workflow again, in the form that fits its table, with '
  'or without pins.';

create or replace function notika._loosen(workflow_id integer)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before notika.workflow;
  v_after notika.workflow;
begin
  select w.* into v_before from notika.workflow as w where w.workflow_id = _loosen.workflow_id;
  if notika._quoted(v_before.relation) is null
     or exists (select from notika._missing_to_make(v_before)) -- _judge reports them
  then
    return;
  end if;
  v_after := notika._with_columns(v_before);
  v_after.is_pinned := false;
  if not v_before.is_pinned and notika._is_complete(v_before) then
    perform notika._renew_capture(v_before, v_after);
  else
    perform notika._bring_into_form(v_before, v_after);
  end if;
end;
$$;

comment on function notika._loosen(integer) is
  'Removes the pins of a workflow. It still captures the columns that exist.';

create or replace function notika._restore_capture(before notika.workflow, after notika.workflow, may_alter boolean)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_after notika.workflow := _restore_capture.after;
begin
  if not notika._has_all_it_needs(v_after) then
    if may_alter and not exists (select from notika._missing_to_make(v_after)) then
      perform notika._loosen(before.workflow_id);
    end if;
    return;
  end if;

  v_after.is_pinned := case when may_alter then notika._wants_pins(before.guard)
                            else before.is_pinned end;
  -- Create only what is missing: a trigger that was disabled stays disabled.  If Notika lacks a
  -- right, or the condition means something else now, nothing is created and _judge reports it.
  if may_alter and notika._may_make(v_after)
     and (not notika._is_complete(v_after) or v_after.is_pinned <> before.is_pinned
          or notika._form(v_after) <> before.capture
          or notika._listed_shape(before.definition)
             is distinct from case when notika._lists_columns(v_after)
                                   then notika._shape(v_after.relation) end)
  then
    perform notika._bring_into_form(before, v_after);
  elsif not before.is_pinned
        or (v_after.column_names, v_after.watch, v_after.condition)
           is distinct from (before.column_names, before.watch, before.condition)
  then
    -- Postgres follows renames in pinned code.  Text that each session parses again is rewritten
    -- here.
    v_after.is_pinned := before.is_pinned;
    perform notika._renew_capture(before, v_after);
    if v_after.is_pinned then
      update notika.workflow as w
         set definition = notika._definition(v_after)
       where w.workflow_id = before.workflow_id;
    end if;
  end if;
  perform notika._follow_key(v_after);
end;
$$;

comment on function notika._restore_capture(notika.workflow, notika.workflow, boolean) is
  'Creates the missing functions and triggers of a workflow if its table and columns exist. '
  'Otherwise the workflow captures the columns that are left.';

create or replace function notika._reconcile(
  workflow_id integer,
  statement text,
  settled boolean,
  may_alter boolean default true
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_spec notika.workflow;
  v_before notika.workflow;
  v_after notika.workflow;
  v_table regclass;
begin
  select w.* into v_spec
    from notika.workflow as w
   where w.workflow_id = _reconcile.workflow_id
     and w.unpublished_at is null and w.table_name is not null;
  if not found then
    return;
  end if;
  v_spec := notika._with_names(v_spec);
  v_after := v_spec;

  -- For tables the name decides: a table that has taken the name of a dropped or renamed table
  -- becomes the workflow's table.
  v_table := notika._table(v_spec.table_name);
  if v_table is not null and v_table is distinct from v_spec.relation and may_alter
     and (settled or notika._quoted(v_spec.relation) is null)
  then
    v_after.relation := v_table;
    perform notika._record(v_spec, 'healed', 'table_replaced', v_spec.table_name, statement);
    update notika.workflow as w
       set table_name = w.table_name -- computes the generated column relation again
     where w.workflow_id = v_spec.workflow_id;
    delete from notika.contract_table as c where c.workflow_id = v_spec.workflow_id;
    insert into notika.contract_table (workflow_id, relation)
    select v_spec.workflow_id, t from notika._tables(v_table) as t;
  end if;
  perform notika._rebind(v_spec, v_after.relation, statement);
  v_after := notika._with_columns(v_after);
  perform notika._restore_capture(v_spec, v_after, may_alter);
  perform notika._settle_capture_rights(v_spec.workflow_id, v_after.relation);
  if not settled or v_spec.on_rename <> 'follow' then
    return;
  end if;

  if not notika._follow_columns(v_spec, v_after, statement) then
    v_after.column_names := v_spec.column_names;
    v_after.watch := v_spec.watch;
    v_after.condition := v_spec.condition;
    v_after.condition_sql := v_spec.condition_sql;
  end if;
  v_after := notika._follow_labels(v_spec, v_after, statement);
  select w.* into v_before from notika.workflow as w where w.workflow_id = v_spec.workflow_id;
  if v_after.condition is distinct from v_spec.condition and not v_before.is_pinned then
    v_after.is_pinned := false;
    perform notika._renew_capture(v_before, v_after); -- each session parses the condition again
    select w.* into v_before from notika.workflow as w where w.workflow_id = v_spec.workflow_id;
  end if;
  -- A pinned condition follows a renamed label in a constant, but not in a string with an explicit
  -- cast, so create the triggers again.
  if v_after.condition is distinct from v_spec.condition and notika._names_others(v_after.condition)
     and may_alter and notika._has_all_it_needs(v_after) and notika._may_make(v_after)
  then
    v_after.is_pinned := notika._wants_pins(v_spec.guard);
    perform notika._bring_into_form(v_before, v_after);
  end if;

  -- Without may_alter, keep the name if another table has taken it: that needs a decision.
  if v_table is null or v_table = v_after.relation then
    v_after.table_name := coalesce(notika._quoted(v_after.relation), v_spec.table_name);
  end if;
  if v_after.table_name <> v_spec.table_name then
    perform notika._record(v_spec, 'followed', 'table_renamed', v_spec.table_name,
                           notika._statement_of(v_spec.workflow_id, 'table_renamed', v_spec.table_name,
                                                statement),
                           v_spec.table_name, v_after.table_name);
  end if;
  update notika.workflow as w
     set table_name = v_after.table_name
   where w.workflow_id = v_spec.workflow_id and w.table_name <> v_after.table_name;
  update notika.workflow as w
     set watch = v_after.watch, condition = v_after.condition, column_names = v_after.column_names,
         condition_sql = v_after.condition_sql, condition_uses = v_after.condition_uses
   where w.workflow_id = v_spec.workflow_id
     and (w.watch, w.condition, w.column_names, w.condition_sql, w.condition_uses)
         is distinct from (v_after.watch, v_after.condition, v_after.column_names,
                           v_after.condition_sql, v_after.condition_uses);
  -- Add new partitions, which have their triggers now, to the contract.
  insert into notika.contract_table (workflow_id, relation)
  select v_spec.workflow_id, t from notika._tables(v_after.relation) as t
   where may_alter
  on conflict do nothing;
end;
$$;

comment on function notika._reconcile(integer, text, boolean, boolean) is
  'Binds the contract to replaced objects of the same name and type, follows renames, and creates '
  'missing triggers and functions if everything they need exists. settled: false in the middle of '
  'a transaction, when a dropped name may return. may_alter: whether to run DDL.';
