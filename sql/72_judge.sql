-- The guard's judgement: event triggers find out which workflows a command touched, and a deferred
-- constraint trigger judges what the transaction leaves when it commits.

create or replace function notika._unpin(workflow_id integer)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set client_min_messages = warning
as $$
declare
  v_function regprocedure;
begin
  perform notika._set_busy(true);
  for v_function in
    -- To name an argument asks for rights on its schema, so those where that fails come last.
    select g
      from notika._generated(_unpin.workflow_id) as g
      join pg_proc as p on p.oid = g
      left join pg_type as t on t.oid = p.proargtypes[0]
     order by has_schema_privilege(t.typnamespace, 'usage') is false, g::text
  loop
    -- By its name alone where it is the last of that name.
    execute format('drop function %s cascade', (
      select case when count(*) = 1 then format('notika.%I', p.proname) else v_function::text end
        from pg_proc as p
        join pg_proc as o on o.pronamespace = p.pronamespace and o.proname = p.proname
       where p.oid = v_function
       group by p.proname
    ));
  end loop;
  perform notika._set_busy(false);
  delete from notika.contract_key as k where k.workflow_id = _unpin.workflow_id;
end;
$$;

comment on function notika._unpin(integer) is
  'Takes the functions and triggers of a workflow away.';

create or replace function notika._summon(
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
  select s.workflow_id, _summon.tag, coalesce(left(_summon.statement, 400), ''), _summon.dropped,
         _summon.found
    from unnest(_summon.workflow_ids) as s (workflow_id)
   where case
           when _summon.dropped is not null then not exists (
             select from notika.guard_pending as p
              where p.workflow_id = s.workflow_id and p.dropped = _summon.dropped
           )
           -- Again only where something else would be refused than after the last command.
           else coalesce((
             select p.found is not null and p.found is distinct from _summon.found
               from notika.guard_pending as p
              where p.workflow_id = s.workflow_id
              order by p.pending_id desc
              limit 1
           ), true)
         end;
$$;

comment on function notika._summon(integer[], text, text, text, text[]) is
  'Has workflows judged when the transaction commits.';

create or replace function notika._statement_of(workflow_id integer, kind text, object text, otherwise text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- The first command after which it was so until the end; what it is about may have another name by then.
  return coalesce((
    select p.statement
      from unnest(array[concat_ws(' ', _statement_of.kind, _statement_of.object), _statement_of.kind || ' %'])
             with ordinality as l (pattern, place)
     cross join lateral (
       select o.statement, o.pending_id
         from notika.guard_pending as o
        where o.workflow_id = _statement_of.workflow_id
          and o.pending_id > coalesce((
            select max(k.pending_id)
              from notika.guard_pending as k
             where k.workflow_id = o.workflow_id and k.found is not null and not exists (
               select from unnest(k.found) as f (finding)
                where case l.place when 1 then f.finding = l.pattern else f.finding like l.pattern end
             )
          ), 0)
        order by o.pending_id
        limit 1
     ) as p
     order by l.place
     limit 1
  ), _statement_of.otherwise);
end;
$$;

comment on function notika._statement_of(integer, text, text, text) is
  'The command in this transaction that led to a finding about a workflow.';

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
  -- Mostly there is nothing, and that is told by less than by all that can be found.
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
  'What the guard would find now that may be a reason to refuse, or to follow: each kind and object.';

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
  'Says and writes down that the guard failed at a workflow, which is no reason to fail at the others.';

create or replace function notika._see_clearly()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._rebind_copy();
  -- With an old snapshot a workflow that was published since is not seen, and its table looks free.
  -- publish updates the row, so this fails with 40001 where that happened.
  if current_setting('transaction_isolation') <> 'read committed' then
    perform from notika.guard_state for share;
  end if;
end;
$$;

comment on function notika._see_clearly() is
  'Binds a restored copy; fails in a transaction whose snapshot is older than the last publish.';

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
         -- Or on behalf of somebody, in a function with its owner's rights.
         or exists (
           select from regexp_matches(_may_alter.context, 'PL/pgSQL function (\S+\(.*?\)) line', 'g') as m
             join pg_proc as p on p.oid = to_regprocedure(m[1]) and p.prosecdef
            where pg_has_role(p.proowner, c.relowner, 'usage')
         )
       )
  );
$$;

comment on function notika._may_alter(regclass, text) is
  'Whether the caller may alter a table: if not, the command is about to fail and locks nothing.';

create or replace function notika._keep_itself(command text)
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
       and (n.nspname = any (array(select notika._named_schemas(_keep_itself.command)))
            or n.nspowner in (
              select r.oid
                from notika._named_owners(_keep_itself.command) as o (name)
                join pg_roles as r on r.rolname = o.name
            ))
  ) then
    return;
  end if;
  -- Afterwards there is nobody left to judge.
  select array_agg(w.name order by w.workflow_id) into v_names
    from notika.workflow as w
   where w.unpublished_at is null and w.table_name is not null
     and notika._verdict(w, 'table_dropped') = 'blocked';
  if v_names is not null then
    raise exception 'cannot drop schema notika because Notika''s workflow "%" is published', v_names[1]
      using errcode = 'NK001',
            detail = format('Published are %s.', array_to_string(v_names, ', ')),
            hint = 'Run: select * from notika.uninstall();';
  end if;
end;
$$;

comment on function notika._keep_itself(text) is
  'Refuses a DROP SCHEMA or DROP OWNED that would take Notika away with what is published.';

create or replace function notika._unpin_for(
  workflow_id integer,
  relation regclass,
  tag text,
  command text
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- At once the lock that the command takes: from a weaker one to it there are deadlocks.
  -- Who may not ask for it gets it by dropping the triggers, which are made again below.
  begin
    if relation is not null then
      execute format('lock table %s in access exclusive mode', notika._quoted(relation));
    end if;
  exception when insufficient_privilege then
    if not exists (
      select from notika.workflow as w cross join lateral notika._missing_to_make(w)
       where w.workflow_id = _unpin_for.workflow_id
    ) then
      perform notika._set_busy(true);
      execute format('drop function if exists notika._capture_%s() cascade', _unpin_for.workflow_id);
      perform notika._set_busy(false);
    end if;
  end;
  perform notika._loosen(_unpin_for.workflow_id);
exception
  when serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others then
    perform notika._report_failure(_unpin_for.workflow_id, tag, command, sqlerrm, sqlstate);
end;
$$;

comment on function notika._unpin_for(integer, regclass, text, text) is
  'Takes away the pins of a workflow that would refuse a command about this table; null: about none.';

create or replace function notika._let_through(tag text, context text, path text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
  set standard_conforming_strings = on
  set client_min_messages = warning -- what is dropped along is not what the caller did
as $$
declare
  v_command text;
  v_table regclass;
  v_workflow_id integer;
  v_function regprocedure;
  v_parts regclass[];
begin
  if exists (select from notika.guard_busy) then
    return;
  end if;
  perform notika._see_clearly();
  context := regexp_replace(context, E'^[^\n]*\n?', ''); -- the guard's own line
  if context = '' and current_query() !~* '\m(drop|type)\M' then
    return; -- nothing that a pin would refuse
  end if;
  v_command := notika._current_command(current_query(), context);
  if v_command is null or v_command !~* '\m(drop|type)\M' then
    return;
  end if;
  if tag in ('DROP SCHEMA', 'DROP OWNED') then
    perform notika._keep_itself(v_command);
  end if;

  if tag = 'ALTER TYPE' then
    -- Its attributes are pinned too.  The tables that have it are not locked by the command.
    for v_workflow_id in
      select distinct c.workflow_id
        from notika._named_tables(v_command, path) as t
        join pg_class as k on k.oid = t and k.relkind = 'c'
        join notika.contract as c on c.attributes is not null
        join notika.workflow as w on w.workflow_id = c.workflow_id and w.is_pinned
       where exists (
         select from pg_depend as d
           join notika._generated(c.workflow_id) as g (function) on g.function = d.objid
          where d.classid = 'pg_proc'::regclass
            and d.refclassid = 'pg_class'::regclass and d.refobjid = k.oid
       )
       order by 1
    loop
      perform notika._unpin_for(v_workflow_id, null, tag, v_command);
    end loop;
    return;
  end if;

  for v_table in
    select t
      from (
        select notika._named_tables(v_command, path) where tag <> 'DROP OWNED'
        union
        select c.oid
          from notika._named_owners(v_command) as o (name)
          join pg_roles as r on r.rolname = o.name
          join pg_class as c on c.relowner = r.oid
         where c.oid in (select t.relation from notika.contract_table as t)
      ) as n (t)
     where notika._may_alter(t, context)
     order by t
  loop
    v_parts := array(select d from notika._tables(v_table) as d);
    continue when not exists (
      select from notika.contract_table as t where t.relation = any (v_parts)
    );
    if tag <> 'ALTER TABLE' then
      for v_workflow_id, v_function in
        select t.workflow_id, notika._payload_function(t.workflow_id, t.relation)
          from notika.contract_table as t
         where t.relation = any (v_parts)
      loop
        continue when v_function is null;
        begin
          perform notika._set_busy(true);
          execute format('drop function %s cascade', v_function);
          perform notika._set_busy(false);
        exception
          when serialization_failure or deadlock_detected or lock_not_available then
            raise;
          when others then
            perform notika._report_failure(v_workflow_id, tag, v_command, sqlerrm, sqlstate);
        end;
      end loop;
      continue;
    end if;

    for v_workflow_id in
      select w.workflow_id
        from notika.workflow as w
       where w.is_pinned
         and w.workflow_id in (
           select t.workflow_id from notika.contract_table as t where t.relation = any (v_parts)
         )
         -- Any mention will do, also by the name it was given in this transaction: at worst its
         -- pins are taken away and put back.
         and exists (
           select from notika.contract as c
             left join pg_attribute as a on a.attrelid = w.relation and a.attnum = c.attnum
            where c.workflow_id = w.workflow_id
              and (strpos(lower(v_command), lower(replace(c.column_name, '"', '""'))) > 0
                   or strpos(lower(v_command), lower(replace(a.attname, '"', '""'))) > 0)
         )
       order by w.workflow_id
    loop
      perform notika._unpin_for(v_workflow_id, v_table, tag, v_command);
    end loop;
  end loop;
end;
$$;

comment on function notika._let_through(text, text, text) is
  'Called by an event trigger: takes away the pins that would refuse a command, for the judgement at '
  'commit.';

create or replace function notika._note_dropped(tag text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_touched record;
  v_statement text;
begin
  if exists (select from notika.guard_busy) then
    return;
  end if;
  perform notika._see_clearly();

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
               -- A payload function that is still called is put back.
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
    perform notika._summon(array[v_touched.workflow_id], tag, v_statement, v_touched.dropped);
  end loop;
end;
$$;

comment on function notika._note_dropped(text) is
  'Called by an event trigger: notes the workflows whose tables, columns, triggers or functions were '
  'dropped.';

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
  -- What was dropped by name was meant.
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
         -- What was dropped says more than what it was dropped from.
         statement = case v_culprit when concat_ws(' ', _note_command.tag, _note_command.objects[1])
                                    then p.statement else v_culprit end
   where p.workflow_id = _note_command.workflow_id and p.found is null;
  if found then
    -- What was dropped made no difference.
    delete from notika.guard_pending as p
     where p.workflow_id = _note_command.workflow_id and p.dropped is null and v_found = (
       select o.found from notika.guard_pending as o
        where o.workflow_id = p.workflow_id and o.pending_id < p.pending_id
        order by o.pending_id desc
        limit 1
     );
    return;
  end if;
  perform notika._summon(array[_note_command.workflow_id], _note_command.tag, v_culprit, null, v_found);
end;
$$;

comment on function notika._note_command(integer, text, text[], text, text) is
  'Keeps a workflow working that a command has touched, as far as it goes, and notes what would be '
  'refused now.';

create or replace function notika._note_commands(tag text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
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
  perform notika._see_clearly();

  select array_agg(d.objid) filter (where d.classid = 'pg_class'::regclass),
         array_agg(d.objid) filter (where d.classid = 'pg_trigger'::regclass),
         array_agg(d.objid) filter (where d.classid = 'pg_rewrite'::regclass),
         array_agg(d.objid) filter (where d.classid = 'pg_type'::regclass),
         array_agg(d.objid) filter (where d.classid = 'pg_proc'::regclass),
         array_agg(d.objid) filter (where d.classid = 'pg_namespace'::regclass)
    into v_relations, v_triggers, v_rules, v_types, v_functions, v_schemas
    from pg_event_trigger_ddl_commands() as d;

  -- What is already to be judged, and what was let go and is not touched after all.
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
      -- A partition or child that was attached.
      select c.workflow_id
        from pg_inherits as i
        join notika.contract_table as c on c.relation = i.inhparent
       where i.inhrelid = any (v_relations)
      union all
      -- A published table that was attached, or that another one refers to.
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
      -- A table that takes a published name.
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
    -- What was dropped is not listed there.
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
    -- Each on its own: one at which the guard fails does not take the others along.
    begin
      perform notika._note_command(
        v_touched.workflow_id, tag, v_objects, v_statement, v_touched.replaced);
    exception
      when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
        raise;
      when others then
        perform notika._report_failure(v_touched.workflow_id, tag, v_statement, sqlerrm, sqlstate);
        perform notika._summon(array[v_touched.workflow_id], tag, v_statement);
    end;
  end loop;
end;
$$;

comment on function notika._note_commands(text) is
  'Called by an event trigger: keeps a workflow working in the middle of a transaction, as far as it '
  'goes, and notes that it is to be judged.';

create or replace function notika._guard_at_commit()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
begin
  -- One judgement for all that was noted about a workflow.
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
          null; -- what it needs went along, or may not be had: that is judged
      end;
    end if;
    perform notika._judge(new.workflow_id, new.statement, 'commit');
  exception
    when sqlstate 'NK001' or serialization_failure or deadlock_detected or lock_not_available then
      raise;
    -- Without knowing what has taken the place of what, nothing is refused.
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
      using hint = 'The command goes on. See what it left: select * from notika.check();';
    delete from notika.guard_pending as p where p.workflow_id = new.workflow_id;
    return null;
end;
$$;

comment on function notika._guard_at_commit() is
  'Judges what a transaction leaves of a workflow''s contract, when it commits.';

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
  'Writes down that a workflow at which the guard had failed could be judged again.';

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
     -- That is only a consequence.  A condition that means something else takes no trigger away.
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
  'Compares a workflow with its contract. At commit it may refuse; later it marks what is broken, '
  'and what is whole again.';

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
           when kind = 'type_narrowed' then 'followed' -- nobody can notice
           when not notika._is_breaking(kind) and not notika._is_rename(kind) then 'warned'
           when notika._is_rename(kind) and (spec).on_rename = 'follow' then 'followed'
           when (spec).guard = 'off' then 'ignored'
           -- It need not be this command's doing.
           when (spec).guard = 'warn' or kind = 'condition_changed' then 'warned'
           else 'blocked'
         end;
$$;

comment on function notika._verdict(notika.workflow, text) is
  'What a finding of this kind means for a workflow, here and now.';

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
  -- Only its owner can have dropped the table.
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
  'What the role that ran a refused command can do about it, or who can.';

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
  -- As it is called, for between quotes.
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
  'Refuses what breaks a workflow, and names the ways out.';

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
  -- What was said since it was published need not be said again; but what breaks it, or could not be
  -- judged, must have been whole in between.
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
      using detail = 'Its other workflows were checked.',
            hint = case
              when doing is not null then 'The command goes on. See what it left: select * from notika.check();'
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
  'Writes a finding down, says it if it is a warning, and marks the workflow if it cannot go on.';

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
  'Marks a workflow as broken: its runs are held. What captures its changes goes on.';

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
  'Whether the verdict at commit is passed under session_replication_role = replica, too; after '
  'pg_restore --disable-triggers it is not.';

drop trigger if exists guard_at_commit on notika.guard_pending;
create constraint trigger guard_at_commit
  after insert on notika.guard_pending
  deferrable initially deferred
  for each row
  execute function notika._guard_at_commit();
-- Like the event triggers: also under session_replication_role = replica.
-- pgls-ignore lint/safety/lockTimeoutWarning: nobody waits for this table
alter table notika.guard_pending enable always trigger guard_at_commit;
