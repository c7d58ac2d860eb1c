-- The functions that the event triggers call when a command drops objects and when it ends: they
-- find the workflows it touches, keep them capturing, and queue them for a verdict at commit.

create or replace function notika._queue_verdict(
  workflow_ids integer[],
  tag text,
  statement text,
  dropped text default null,
  found text[] default null
)
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  insert into notika.guard_pending (workflow_id, tag, statement, dropped, found)
  select s.workflow_id, _queue_verdict.tag, coalesce(left(_queue_verdict.statement, 400), ''), _queue_verdict.dropped,
         _queue_verdict.found
    from unnest(_queue_verdict.workflow_ids) as s (workflow_id)
   where case
           when _queue_verdict.dropped is not null then not exists (
             select from notika.guard_pending as p
              where p.workflow_id = s.workflow_id and p.dropped = _queue_verdict.dropped
           )
           -- Add an entry only if the findings differ from those after the last command.
           else coalesce((
             select p.found is not null and p.found is distinct from _queue_verdict.found
               from notika.guard_pending as p
              where p.workflow_id = s.workflow_id
              order by p.pending_id desc
              limit 1
           ), true)
         end;
$$;

comment on function notika._queue_verdict(integer[], text, text, text, text[]) is
  'Queues workflows in guard_pending, to be judged when the transaction commits.';

create or replace function notika._check_snapshot()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._rebind_copy();
  -- An old snapshot does not see a workflow that was published later, so its table looks
  -- unpublished.
  -- publish updates this row, so in that case locking it fails with 40001.
  if current_setting('transaction_isolation') <> 'read committed' then
    perform from notika.guard_state for share;
  end if;
end;
$$;

comment on function notika._check_snapshot() is
  'Binds a restored copy to its tables. Fails if the transaction''s snapshot is older than the '
  'last publish.';

create or replace function notika._may_alter(relation regclass, context text)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  select exists (
    select from pg_class as c
     where c.oid = _may_alter.relation
       and (
         pg_has_role(notika._session_role(), c.relowner, 'usage')
         -- Or the command runs in a SECURITY DEFINER function whose owner may alter it.
         or exists (
           select from regexp_matches(_may_alter.context, 'PL/pgSQL function (\S+\(.*?\)) line', 'g') as m
             join pg_proc as p on p.oid = to_regprocedure(m[1]) and p.prosecdef
            where pg_has_role(p.proowner, c.relowner, 'usage')
         )
       )
  );
$$;

comment on function notika._may_alter(regclass, text) is
  'Whether the command may alter a table. If not, it is about to fail, and the guard must not lock '
  'the table.';

create or replace function notika._refuse_own_drop(command text)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_names text[];
begin
  if not exists (
    select from pg_namespace as n
     where n.nspname = 'notika'
       and (n.nspname = any (array(select notika._named_schemas(_refuse_own_drop.command)))
            or n.nspowner in (
              select r.oid
                from notika._named_owners(_refuse_own_drop.command) as o (name)
                join pg_roles as r on r.rolname = o.name
            ))
  ) then
    return;
  end if;
  -- The command would drop the guard itself, so refuse it before it runs.
  select array_agg(w.name order by w.workflow_id) into v_names
    from notika.workflow as w
   where w.unpublished_at is null and w.table_name is not null
     and notika._verdict(w, 'table_dropped') = 'blocked';
  if v_names is not null then
    raise exception 'cannot drop schema notika because Notika''s workflow "%" is published', v_names[1]
      using errcode = 'NK001',
            detail = format('These workflows are published: %s.', array_to_string(v_names, ', ')),
            hint = 'Run: select * from notika.uninstall();';
  end if;
end;
$$;

comment on function notika._refuse_own_drop(text) is
  'Refuses a DROP SCHEMA or DROP OWNED that would drop Notika while workflows are published.';

create or replace function notika._note_dropped(tag text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set jit = off -- compilation would take longer than the queries run
  set quote_all_identifiers = off
as $$
declare
  v_touched record;
  v_statement text;
begin
  if exists (select from notika.guard_busy) then
    return;
  end if;
  perform notika._check_snapshot();

  for v_touched in
    select t.workflow_id, max(t.dropped) as dropped
      from (
        select c.workflow_id, null::text as dropped
          from pg_event_trigger_dropped_objects() as d
          join notika.contract_table as c on c.relation = d.objid
         where d.classid = 'pg_class'::regclass
        union all
        select substring(n.name from '[0-9]+')::integer,
               case when d.original then d.object_identity end
          from pg_event_trigger_dropped_objects() as d
         cross join lateral (select d.address_names[cardinality(d.address_names)]) as n (name)
         where d.classid = 'pg_trigger'::regclass
           and n.name ~ '^notika_[0-9]{1,9}_(insert|update|delete)$'
        union all
        select substring(d.address_names[2] from '[0-9]+')::integer,
               -- Not if the capture function still calls it: then it is created again.
               case when d.original and not exists (
                 select from pg_proc as p
                  where p.pronamespace = 'notika'::regnamespace
                    and p.proname = '_capture_' || substring(d.address_names[2] from '[0-9]+$')
                    and strpos(p.prosrc, format('notika.%s(', d.address_names[2])) > 0
               ) then d.object_identity end
          from pg_event_trigger_dropped_objects() as d
         where d.classid = 'pg_proc'::regclass and d.address_names[1] = 'notika'
           and d.address_names[2] ~ '^(_capture|_passes|payload)_[0-9]{1,9}$'
      ) as t
      join notika.workflow as w on w.workflow_id = t.workflow_id and w.unpublished_at is null
     group by t.workflow_id
     order by t.workflow_id
  loop
    v_statement := coalesce(v_statement, notika._culprit(tag, array(
      select d.object_identity from pg_event_trigger_dropped_objects() as d order by not d.original
    )));
    perform notika._queue_verdict(array[v_touched.workflow_id], tag, v_statement, v_touched.dropped);
  end loop;
end;
$$;

comment on function notika._note_dropped(text) is
  'Called by the event trigger for dropped objects: queues the workflows whose tables, columns, '
  'triggers or functions were dropped.';

create or replace function notika._note_command(
  workflow_id integer,
  tag text,
  objects text[],
  statement text,
  replaced text
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_found text[];
  v_new text[];
  v_culprit text;
begin
  -- A trigger or function that was dropped by name is not created again.
  if not exists (
    select from notika.guard_pending as p
     where p.workflow_id = _note_command.workflow_id and p.dropped is not null
  ) then
    perform notika._reconcile(_note_command.workflow_id, _note_command.statement, false);
  end if;
  if replaced is not null then
    perform notika._note(w, 'warned', 'trigger_replaced', _note_command.replaced, 'as published',
                         'created by hand', _note_command.statement)
       from notika.workflow as w
      where w.workflow_id = _note_command.workflow_id;
  end if;

  v_found := notika._would_refuse(_note_command.workflow_id);
  v_new := array(
    select f from unnest(v_found) as f
    except
    select f from notika.guard_pending as p cross join unnest(p.found) as f
     where p.workflow_id = _note_command.workflow_id
  );
  v_culprit := case when v_new = '{}' then _note_command.statement
                    else notika._culprit(_note_command.tag, _note_command.objects, v_new) end;
  update notika.guard_pending as p
     set found = v_found,
         -- The text recorded when the object was dropped says more than the tag and the table.
         statement = case v_culprit when concat_ws(' ', _note_command.tag, _note_command.objects[1])
                                    then p.statement else v_culprit end
   where p.workflow_id = _note_command.workflow_id and p.found is null;
  if found then
    -- The drop changed no finding: remove its entry.
    delete from notika.guard_pending as p
     where p.workflow_id = _note_command.workflow_id and p.dropped is null and v_found = (
       select o.found from notika.guard_pending as o
        where o.workflow_id = p.workflow_id and o.pending_id < p.pending_id
        order by o.pending_id desc
        limit 1
     );
    return;
  end if;
  perform notika._queue_verdict(array[_note_command.workflow_id], _note_command.tag, v_culprit, null, v_found);
end;
$$;

comment on function notika._note_command(integer, text, text[], text, text) is
  'Keeps a workflow that a command touched working as far as possible, and records what would be '
  'refused now.';

create or replace function notika._note_commands(tag text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set jit = off -- compilation would take longer than the queries run
  set quote_all_identifiers = off
as $$
declare
  v_relations oid[];
  v_triggers oid[];
  v_rules oid[];
  v_types oid[];
  v_functions oid[];
  v_schemas oid[];
  v_names text[];
  v_ids integer[];
  v_touched record;
  v_objects text[];
  v_statement text;
begin
  if exists (select from notika.guard_busy) then
    return;
  end if;
  perform notika._check_snapshot();

  select array_agg(d.objid) filter (where d.classid = 'pg_class'::regclass),
         array_agg(d.objid) filter (where d.classid = 'pg_trigger'::regclass),
         array_agg(d.objid) filter (where d.classid = 'pg_rewrite'::regclass),
         array_agg(d.objid) filter (where d.classid = 'pg_type'::regclass),
         array_agg(d.objid) filter (where d.classid = 'pg_proc'::regclass),
         array_agg(d.objid) filter (where d.classid = 'pg_namespace'::regclass)
    into v_relations, v_triggers, v_rules, v_types, v_functions, v_schemas
    from pg_event_trigger_ddl_commands() as d;

  -- The workflows that are queued already, and those whose pins were lifted for this command.
  v_ids := array(
    select p.workflow_id from notika.guard_pending as p
    union all
    select w.workflow_id from notika.workflow as w
     where not w.is_pinned and w.broken_reason is null and w.table_name is not null
  );
  if v_triggers is not null then
    v_relations := v_relations || array(
      select t.tgrelid from pg_trigger as t where t.oid = any (v_triggers));
    v_ids := v_ids || array(
      select substring(t.tgname::text from '[0-9]+')::integer
        from pg_trigger as t
       where t.oid = any (v_triggers) and t.tgname ~ '^notika_[0-9]{1,9}_(insert|update|delete)$');
  end if;
  if v_rules is not null then
    v_relations := v_relations || array(
      select r.ev_class from pg_rewrite as r where r.oid = any (v_rules));
  end if;
  if v_relations is not null then
    v_names := array(select notika._quoted(r) from unnest(v_relations) as r);
    v_types := v_types || array(
      select c.reltype from pg_class as c where c.oid = any (v_relations) and c.relkind = 'c');
    v_ids := v_ids || array(
      select c.workflow_id from notika.contract_table as c where c.relation = any (v_relations)
      union all
      -- The relation became a partition or child of a captured table.
      select c.workflow_id
        from pg_inherits as i
        join notika.contract_table as c on c.relation = i.inhparent
       where i.inhrelid = any (v_relations)
      union all
      -- A captured table became a partition or child of the relation, or is referenced by it.
      select c.workflow_id
        from pg_inherits as i
        join notika.contract_table as c on c.relation = i.inhrelid
       where i.inhparent = any (v_relations)
      union all
      select c.workflow_id
        from pg_constraint as k
        join notika.contract_table as c on c.relation = k.confrelid
       where k.conrelid = any (v_relations) and k.contype = 'f'
      union all
      -- The relation has the name of a published table.
      select w.workflow_id from notika.workflow as w where w.table_name = any (v_names)
    );
  end if;
  if cardinality(v_types) > 0 then
    v_ids := v_ids || array(
      select c.workflow_id
        from (select distinct o.type from notika.contract as o where o.type >= 16384) as u
        join notika.contract as c on c.type = u.type
       where exists (
         select from notika._part_types(u.type) as p (oid) where p.oid = any (v_types)
       )
    );
  end if;
  if v_functions is not null then
    v_ids := v_ids || array(
      select substring(p.proname::text from '[0-9]+')::integer
        from pg_proc as p
       where p.oid = any (v_functions) and p.pronamespace = 'notika'::regnamespace
         and p.proname ~ '^(_capture|_passes|payload)_[0-9]{1,9}$');
  end if;
  if v_schemas is not null then
    v_ids := v_ids || array(
      select w.workflow_id
        from notika.workflow as w
        join pg_class as k on k.oid = w.relation and k.relnamespace = any (v_schemas)
      union all
      select c.workflow_id
        from notika.contract as c
        join pg_type as y on y.oid = c.type and y.typnamespace = any (v_schemas)
    );
  end if;
  if v_ids = '{}' then
    return;
  end if;
  v_objects := coalesce(nullif(array(
    select d.object_identity from pg_event_trigger_ddl_commands() as d where d.object_identity is not null
  ), '{}'), array(
    -- pg_event_trigger_ddl_commands() does not list dropped objects.
    select k.table_name from notika.workflow as k where k.workflow_id = any (v_ids)
  ));
  v_statement := notika._culprit(tag, v_objects);

  for v_touched in
    select w.workflow_id, (
             select max(format('%I on %s', t.tgname, notika._quoted(t.tgrelid)))
               from pg_trigger as t
              where t.oid = any (v_triggers)
                and t.tgname ~ format('^notika_%s_(insert|update|delete)$', w.workflow_id)
           ) as replaced
      from notika.workflow as w
     where w.workflow_id = any (v_ids) and w.unpublished_at is null and w.table_name is not null
     order by w.workflow_id
  loop
    -- A subtransaction for each: an error for one workflow must not affect the others.
    begin
      perform notika._note_command(
        v_touched.workflow_id, tag, v_objects, v_statement, v_touched.replaced);
    exception
      when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
        raise;
      when others then
        perform notika._report_failure(v_touched.workflow_id, tag, v_statement, sqlerrm, sqlstate);
        perform notika._queue_verdict(array[v_touched.workflow_id], tag, v_statement);
    end;
  end loop;
end;
$$;

comment on function notika._note_commands(text) is
  'Called by the event trigger for the end of a command: keeps the touched workflows working in '
  'the middle of a transaction, as far as possible, and queues them for a verdict.';
