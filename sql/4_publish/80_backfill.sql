-- Backfill: runs for the rows that a table has already, one page at a time, taken by
-- notika.dispatch. A row that was written after the start has a run of its own if it started the
-- workflow; it is recognised by its key, which dispatch keeps as long as a backfill is running,
-- because the ring forgets. A page is taken only when half of the last one has begun, so that new
-- changes go first.

create or replace view notika.backfills as
select w.name as workflow,
       b.condition,
       b.state,
       b.rows_seen,
       b.events,
       b.started_at,
       b.finished_at,
       case
         when b.error is null then null
         -- It may quote values, which only readers may see.
         when pg_catalog.has_table_privilege('notika.run_log', 'select') then b.error
         else b.error_code || ': readers see the error'
       end as error
  from notika.backfill as b
  join notika.workflow as w on w.workflow_id = b.workflow_id;

comment on view notika.backfills is 'The backfills, and their progress.';

comment on column notika.backfills.workflow is 'The workflow that gets the runs.';

comment on column notika.backfills.condition is
  'The condition on rows besides that of the workflow; null: none.';

comment on column notika.backfills.state is 'running, failed, done or cancelled.';

comment on column notika.backfills.rows_seen is 'The number of rows that it has read.';

comment on column notika.backfills.events is 'The number of runs that it has started.';

comment on column notika.backfills.started_at is 'When it started.';

comment on column notika.backfills.finished_at is
  'When it was done or cancelled; null while it runs, or after it failed. A failed one continues '
  'when it is started again.';

comment on column notika.backfills.error is
  'Why it failed, and what to do; only the SQLSTATE for roles that are not readers.';

create or replace function notika._payload_key(spec notika.workflow, relation regclass)
  returns jsonb
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select jsonb_agg(
           case when (spec).columns is null then k.name
                else (spec).columns[array_position((spec).column_names, k.name)] end
           order by k.place
         )
    from unnest(notika._key_names(_payload_key.relation)) with ordinality as k (name, place);
$$;

comment on function notika._payload_key(notika.workflow, regclass) is
  'The names of the key columns of a table in the events of a workflow; null for a column that '
  'they do not carry.';

create or replace function notika._row_security(relation regclass)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if not row_security_active(_row_security.relation::oid) then
    return 'off'; -- so that Postgres refuses to read if a policy applies after all
  end if;
  return (
    select case
             when bool_or(p.is_permissive and p.condition = 'true')
              and bool_and(p.is_permissive or p.condition = 'true')
             -- Postgres computes expressions that have the same value for all rows before it reads
             -- rows.
             then case when bool_or(p.is_foreign) then 'foreign' else 'on' end
             else 'hides'
           end
      from (
        select p.polpermissive as is_permissive,
               coalesce(pg_get_expr(p.polqual, p.polrelid),
                        case when p.polpermissive then 'false' else 'true' end) as condition,
               p.polqual::text ~ '[{]COERCETODOMAIN ' or exists (
                 select from notika._called('pg_policy'::regclass, p.oid) as c (function)
                  where not notika._is_trusted(c.function)
               ) as is_foreign
          from pg_policy as p
         where p.polrelid = _row_security.relation and p.polcmd in ('r', '*')
           and exists (
             select from unnest(p.polroles) as r (oid)
              where case when r.oid = 0 then true else pg_has_role(r.oid, 'usage') end
           )
      ) as p
  );
end;
$$;

comment on function notika._row_security(regclass) is
  'The setting row_security with which Notika''s owner reads all rows of a table and executes '
  'nothing of other roles. hides: a policy keeps rows from it; foreign: a policy calls functions '
  'of other roles.';

create or replace function notika._backfill_key(relation regclass)
  returns table (place bigint, name text, type text, comparison text, flaw text, signature text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select k.place, a.attname::text, format('%I.%I', n.nspname, t.typname),
           case when t.oid < 16384 or t.typtype = 'e' then '>'
                when o.oprname is not null then format('operator(%I.%s)', o.nspname, o.oprname) end,
           case
             when t.oid < 16384 then null
             when t.typtype not in ('b', 'e') or t.typcategory = 'A' then format(
               'is of type %s, whose parts may belong to other roles', format_type(a.atttypid, null))
             when t.typtype = 'b' and not w.rolsuper then format(
               'is of type %s, which is not an extension''s', format_type(t.oid, null))
             when t.typtype = 'b' and o.oprname is null then format(
               'is of type %s, which has no order of its own', format_type(t.oid, null))
             else (
               select format('is of type %s, for which another role has created the cast %s',
                             format_type(t.oid, null), c.castfunc::regprocedure)
                 from pg_cast as c
                where t.oid in (c.castsource, c.casttarget) and c.castfunc <> 0
                  and not notika._is_trusted(c.castfunc)
                limit 1
             )
           end,
           format('%s %s', a.attnum, format_type(a.atttypid, null))
      from unnest(notika._key_columns(_backfill_key.relation)) with ordinality as k (attnum, place)
      join pg_attribute as a on a.attrelid = _backfill_key.relation and a.attnum = k.attnum
      join pg_type as t on t.oid = notika._base_type(a.atttypid)
      join pg_namespace as n on n.oid = t.typnamespace
      join pg_roles as w on w.oid = t.typowner
      left join lateral (
        select s.nspname, g.oprname
          from pg_opclass as c
          join pg_am as m on m.oid = c.opcmethod and m.amname = 'btree'
          join pg_amop as p
            on p.amopfamily = c.opcfamily and p.amopstrategy = 5
           and p.amoplefttype = t.oid and p.amoprighttype = t.oid
          join pg_operator as g on g.oid = p.amopopr
          join pg_namespace as s on s.oid = g.oprnamespace
         where c.opcdefault and c.opcintype = t.oid
      ) as o on true
     order by k.place;
end;
$$;

comment on function notika._backfill_key(regclass) is
  'The key of a table, in whose order a backfill reads its rows: the columns with their types '
  'under domains, how values are compared, why that is not safe, and what must not change '
  'meanwhile.';

create or replace function notika._key_signature(relation regclass)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array_agg(k.signature order by k.place) from notika._backfill_key(_key_signature.relation) as k;
$$;

comment on function notika._key_signature(regclass) is
  'A value that changes when the columns of the key of a table or their types change.';

create or replace function notika._open_part(spec notika.workflow, part regclass)
  returns text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_quoted text := notika._quoted(part);
  v_row_security text;
  v_column text;
  v_flaw text;
begin
  if v_quoted is null then
    raise exception 'a table of workflow "%" does not exist any more', spec.name
      using errcode = 'undefined_table',
            hint = format('End the backfill: select notika.cancel_backfill(%L);', spec.name);
  end if;
  -- Publishing it again grants the right to read it as well.
  perform notika._check_payload(spec, part);
  if not has_table_privilege(part, 'select') then
    raise exception 'role "%" may not read table %', current_user, v_quoted
      using errcode = 'insufficient_privilege',
            hint = format('Run: grant select on %s to %I;', v_quoted, current_user);
  end if;
  -- From now on no session can alter it or its policies.
  execute format('lock table %s%s in access share mode', notika._only(part), v_quoted);

  v_row_security := notika._row_security(part);
  if v_row_security = 'hides' then
    raise exception 'row security hides rows of table % from role "%"', v_quoted, current_user
      using errcode = 'insufficient_privilege',
            hint = format('Run: create policy notika on %1$s for select to %2$I using (true); or, '
                          'where other policies restrict it: alter role %2$I bypassrls;',
                          v_quoted, current_user);
  elsif v_row_security = 'foreign' then
    raise exception 'a policy of table % calls a function of another role, with the rights of role "%"',
      v_quoted, current_user
      using errcode = 'insufficient_privilege',
            detail = 'Postgres may execute it although another policy shows all rows.',
            hint = format('Grant the policy to the roles that it is meant for, or: alter role %I '
                          'bypassrls;', current_user);
  end if;
  select k.name, k.flaw into v_column, v_flaw
    from notika._backfill_key(part) as k
   where k.flaw is not null
   limit 1;
  if found then
    raise exception 'a backfill cannot use the key of table %: column "%" %', v_quoted, v_column, v_flaw
      using errcode = 'feature_not_supported',
            detail = 'It compares keys with the rights of the owner of Notika, and would execute what '
                     'belongs to the type.',
            hint = format('Start the runs by hand: select notika.emit(%L, ...) from %s;', spec.name,
                          v_quoted);
  end if;
  perform notika._check_planning(part, false);
  return v_row_security;
end;
$$;

comment on function notika._open_part(notika.workflow, regclass) is
  'Locks a table whose rows are to be read, and refuses it if reading would execute code of other '
  'roles; returns the setting row_security to read it with.';

create or replace function notika._last_key(spec notika.workflow, part regclass)
  returns text[]
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set row_security = off
  set constraint_exclusion = off -- checks call functions of other roles
as $$
declare
  v_key text[];
begin
  perform set_config('row_security', notika._open_part(spec, part), true);
  execute (
    select format('select array[%s] from %s%s as r order by %s limit 1',
                  string_agg(format('format(''%%s'', r.%I)', k.name), ', ' order by k.place),
                  notika._only(part), notika._quoted(part),
                  string_agg(format('r.%I desc', k.name), ', ' order by k.place))
      from notika._backfill_key(part) as k
  )
    into v_key;
  return v_key;
end;
$$;

comment on function notika._last_key(notika.workflow, regclass) is
  'The greatest key in a table, as text; null if the table has no rows.';

create or replace function notika._check_trust(spec notika.workflow, uses jsonb)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_lost text := notika._lost_meaning(_check_trust.uses);
  v_found record;
begin
  if v_lost is not null then
    raise exception 'the condition of a backfill of workflow "%" may mean something else now: %',
      spec.name, v_lost
      using errcode = 'NK002',
            detail = 'It was replaced, or there are other objects of that name.',
            hint = format('End it, check the condition, publish again, and start another one: '
                          'select notika.cancel_backfill(%L);', spec.name);
  end if;

  -- The dispatcher evaluates conditions with the owner's rights, a trigger with the writer's.
  select d.kind, d.name, d.flaw into v_found from notika._distrusted(uses, spec.relation) as d;
  if not found then
    return;
  end if;
  raise exception 'a backfill of workflow "%" would execute % % with the rights of "%"',
    spec.name, case v_found.kind when 'type' then 'what belongs to type' else v_found.kind end,
    v_found.name, current_user
    using errcode = 'insufficient_privilege',
          detail = 'The dispatcher evaluates the condition as the owner of Notika.'
                   || case v_found.kind when 'type' then ' The checks of a domain and the casts of a '
                                                   'type are functions of its owner.' else '' end,
          hint = case
            when v_found.flaw is not null
              then format('Write the condition without it: it %s.', v_found.flaw)
            else format('If you trust it: alter %s %s owner to %I;', v_found.kind, v_found.name, current_user)
          end;
end;
$$;

comment on function notika._check_trust(notika.workflow, jsonb) is
  'Refuses conditions that would execute code of other roles with the rights of the owner, or '
  'that may mean something else than when they were read.';

create or replace function notika._check_payload(spec notika.workflow, part regclass)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Another function may take over, which writes need: its events would carry the key alone.
  if spec.is_pinned and spec.columns is not null
     and notika._payload_function(spec.workflow_id, _check_payload.part) is null
  then
    raise exception 'workflow "%" cannot make events of the rows of table %',
      spec.name, notika._quoted(_check_payload.part)
      using errcode = 'undefined_function',
            detail = format('There is no function notika.payload_%s(%s): it was dropped, or the table '
                            'was added, where the guard did not see it.',
                            spec.workflow_id, notika._quoted(_check_payload.part)),
            hint = 'Publish it again: ' || notika._publish_call(notika._publishable(spec));
  end if;
end;
$$;

comment on function notika._check_payload(notika.workflow, regclass) is
  'Refuses to make events without the function that defines what they carry.';

create or replace function notika._check_backfill(spec notika.workflow)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_part regclass;
  v_missing text[];
  v_corrected notika.workflow := _check_backfill.spec;
begin
  if spec.relation is null then
    raise exception 'workflow "%" is not published on a table', spec.name
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('Start a run by hand: select notika.emit(%L, ''{...}'');', spec.name);
  end if;
  if notika._workflow_of(spec.name) is not null then
    raise exception '"%" is a source, which starts no runs', spec.name
      using errcode = 'wrong_object_type',
            hint = format('Backfill its workflow: select notika.backfill(%L);',
                          notika._workflow_of(spec.name));
  end if;
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'cannot start a backfill in a transaction that is %',
      current_setting('transaction_isolation')
      using errcode = 'object_not_in_prerequisite_state',
            detail = 'Such a transaction does not see the current definition of the table.',
            hint = 'Start it in a transaction of its own.';
  end if;
  if spec.operations = '{delete}' then
    raise exception 'workflow "%" is published for deletes, of which a table has no rows', spec.name
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('For recent deletes: select notika.replay(%L, ''<since>'');',
                          spec.name);
  end if;

  for v_part in select f from notika._family(spec.relation) as f loop
    if notika._key_names(v_part) is null then
      raise exception
        'table % has no primary key', notika._quoted(v_part)
        using errcode = 'object_not_in_prerequisite_state',
              detail = 'A backfill reads rows in the order of their key, and recognises changed rows by it.',
              hint = format('Give it one: alter table %s add primary key (...);',
                            notika._quoted(v_part));
    end if;
    select array_agg(k.name) into v_missing
      from unnest(notika._key_names(v_part)) as k (name)
     where spec.columns is not null and k.name <> all (spec.column_names);
    if v_missing is not null then
      v_corrected.columns := v_missing || spec.columns;
      raise exception 'the events of workflow "%" do not carry the key of table %',
        spec.name, notika._quoted(v_part)
        using errcode = 'object_not_in_prerequisite_state',
              detail = 'Without it, rows that have had a run since the start cannot be recognised.',
              hint = 'Publish it with ' || array_to_string(v_missing, ', ') || ': '
                     || notika._publish_call(v_corrected);
    end if;
    perform notika._open_part(spec, v_part);
  end loop;
end;
$$;

comment on function notika._check_backfill(notika.workflow) is
  'Refuses a backfill that is not possible, not exact, or not safe.';

create or replace function notika.backfill(workflow text, condition text default null)
  returns text
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_call notika.workflow;
  v_function regprocedure;
  v_outcome text;
begin
  v_call.name := backfill.workflow;
  v_call.condition := nullif(btrim(backfill.condition), '');
  -- If there is nothing to backfill, the error below says so.
  if v_call.condition is not null then
    select w.table_name, notika._table(w.table_name) into v_call.table_name, v_call.relation
      from notika.workflows as w
     where w.workflow = backfill.workflow and w.table_name is not null and w.operations <> '{delete}';
    if v_call.relation is not null then
      v_function := notika._read_condition(v_call);
    end if;
  end if;
  v_outcome := notika._submit_request('backfill', jsonb_build_object(
    'workflow', v_call.name, 'condition', v_call.condition, 'function', v_function::oid::bigint)) #>> '{}';
  if v_function is not null then
    execute 'drop function pg_temp.notika_condition()';
  end if;
  return v_outcome;
end;
$$;

comment on function notika.backfill(text, text) is
  'Starts a run for each row that the table has now and that meets the workflow''s condition and '
  'this one; a row that changes meanwhile gets only its own run. Returns started, or continued if '
  'an earlier backfill has failed. Its progress is in notika.backfills. In one transaction with '
  'publish no row gets two runs.';

create or replace function notika._do_backfill(caller name, request jsonb)
  returns text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set datestyle = 'ISO, YMD'
  set intervalstyle = 'iso_8601'
  set timezone = 'UTC'
  set bytea_output = 'hex'
  set extra_float_digits = '1'
as $$
declare
  v_workflow_id integer := notika._published(_do_backfill.request ->> 'workflow');
  v_spec notika.workflow;
  v_extra notika.workflow;
  v_before notika.backfill;
  v_condition text := _do_backfill.request ->> 'condition';
  v_part regclass;
  v_end text[];
  v_ends jsonb := '{}'::jsonb;
  v_keys jsonb := '{}'::jsonb;
begin
  select w.* into v_spec
    from notika.workflow as w
   where w.workflow_id = v_workflow_id
     for update;
  perform notika._check_backfill(v_spec);
  perform notika._check_trust(v_spec, v_spec.condition_uses);
  if v_condition is not null then
    v_extra := v_spec;
    v_extra.condition := v_condition;
    v_extra.operations := '{update}';
    select c.condition_sql, c.condition_uses into v_extra.condition_sql, v_extra.condition_uses
      from notika._take_condition(
             v_extra, _do_backfill.caller, (_do_backfill.request ->> 'function')::oid) as c;
    perform notika._check_trust(v_spec, v_extra.condition_uses);
  end if;

  select b.* into v_before
    from notika.backfill as b
   where b.workflow_id = v_workflow_id and b.finished_at is null;
  if v_before.state = 'failed' and v_before.condition is not distinct from v_condition then
    update notika.backfill as b
       set state = 'running', error = null, error_code = null
     where b.backfill_id = v_before.backfill_id;
    perform notika._wake();
    return 'continued';
  end if;
  if found then
    raise exception 'a backfill of workflow "%" is running already: it is %',
      v_spec.name, v_before.state
      using errcode = 'object_in_use',
            detail = format('Its condition is %s; it has seen %s rows.',
                            coalesce(v_before.condition, 'none'), v_before.rows_seen),
            hint = format('See notika.backfills, or end it: select notika.cancel_backfill(%L);',
                          v_spec.name);
  end if;

  -- Rows with a greater key did not exist. After the locks that publish may have taken in this
  -- transaction: rows that were written before are in the snapshot, and rows written afterwards
  -- are captured.
  for v_part in select f from notika._family(v_spec.relation) as f loop
    v_end := notika._last_key(v_spec, v_part);
    if v_end is not null then
      v_ends := v_ends || jsonb_build_object(v_part::oid::text, v_end);
      v_keys := v_keys || jsonb_build_object(v_part::oid::text, notika._key_signature(v_part));
    end if;
  end loop;

  insert into notika.backfill
    (workflow_id, condition, condition_sql, condition_uses, snapshot, ends, keys, started_by)
  values (v_workflow_id, v_condition, v_extra.condition_sql, v_extra.condition_uses,
          notika._snapshot(), v_ends, v_keys, _do_backfill.caller);
  perform notika._wake();
  return 'started';
end;
$$;

comment on function notika._do_backfill(name, jsonb) is 'Carries out backfill for a runner.';

create or replace function notika.cancel_backfill(workflow text)
  returns boolean
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (notika._submit_request('cancel_backfill', jsonb_build_object(
    'workflow', cancel_backfill.workflow)) #>> '{}')::boolean;
end;
$$;

comment on function notika.cancel_backfill(text) is
  'Ends the backfill of a workflow, and returns whether there was one; runs that it has started '
  'continue.';

create or replace function notika._do_cancel_backfill(workflow text)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._published(_do_cancel_backfill.workflow);
  return notika._end_backfill(b.backfill_id, 'cancelled')
    from notika.backfill as b
    join notika.workflow as w on w.workflow_id = b.workflow_id
   where w.name = _do_cancel_backfill.workflow and b.finished_at is null;
end;
$$;

comment on function notika._do_cancel_backfill(text) is 'Carries out cancel_backfill for a runner.';

create or replace function notika._end_backfill(backfill_id integer, state text)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  update notika.backfill as b
     set state = _end_backfill.state, finished_at = clock_timestamp(), last_runs = '{}'
   where b.backfill_id = _end_backfill.backfill_id and b.finished_at is null;
  if not found then
    return false;
  end if;
  delete from notika.backfill_key as k where k.backfill_id = _end_backfill.backfill_id;
  return true;
end;
$$;

comment on function notika._end_backfill(integer, text) is 'Ends a backfill that has not ended.';

create or replace function notika._publishable(spec notika.workflow)
  returns notika.workflow
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_mended notika.workflow := _publishable.spec;
  v_table regclass := coalesce(notika._table(spec.table_name), spec.relation);
  v_old text[];
  v_new text[];
begin
  v_mended.table_name := coalesce(notika._quoted(v_table), spec.table_name);
  v_mended.columns := spec.column_names;
  if notika._quoted(v_table) is null then
    return v_mended;
  end if;
  -- The table as it is now; null: it is gone, and no table has its name.
  select array_agg(c.column_name),
         array_agg(case
           when v_table = spec.relation then coalesce(r.attname, case when not exists (
             select from notika.contract as o
              where o.workflow_id = c.workflow_id and o.attnum = n.attnum
           ) then n.attname end)
           else n.attname end::text)
    into v_old, v_new
    from notika.contract as c
    left join pg_attribute as r
      on r.attrelid = v_table and r.attnum = c.attnum and not r.attisdropped
    left join pg_attribute as n
      on n.attrelid = v_table and n.attname = c.column_name and n.attnum > 0 and not n.attisdropped
   where c.workflow_id = spec.workflow_id;
  v_mended.columns := (
    select array_agg(m.name order by m.place)
      from (
        select case when u.name = any (v_old) then v_new[array_position(v_old, u.name)] else u.name end as name,
               u.place
          from unnest(v_mended.columns) with ordinality as u (name, place)
      ) as m
  );
  v_mended.watch := (
    select array_agg(m.name)
      from (
        select case when u.name = any (v_old) then v_new[array_position(v_old, u.name)] else u.name end as name
          from unnest(v_mended.watch) as u (name)
      ) as m
  );
  v_mended.condition := notika._rename_in(
    v_mended.condition,
    array(select v_old[i] from generate_subscripts(v_old, 1) as i where v_new[i] is not null),
    array(select v_new[i] from generate_subscripts(v_old, 1) as i where v_new[i] is not null));
  v_mended.columns := nullif(array_remove(v_mended.columns, null), '{}');
  v_mended.watch := nullif(array_remove(v_mended.watch, null), '{}');
  return v_mended;
end;
$$;

comment on function notika._publishable(notika.workflow) is
  'A workflow as it could be published now: on the table of its name, without columns that are '
  'gone.';
