-- Lifts the pins that would refuse a command before it runs, because the guard judges the whole
-- transaction at commit.  An error here is a warning; Postgres may then refuse the command.

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
  -- Take the command's lock at once, because upgrading a weaker lock can deadlock.  Without the
  -- right to lock the table, dropping the triggers takes the lock; they are created again below.
  begin
    if relation is not null then
      execute format('lock table %s in access exclusive mode', notika._quoted(relation));
    end if;
  exception when insufficient_privilege then
    if not exists (
      select from notika.workflow as w cross join lateral notika._missing_to_make(w)
       where w.workflow_id = _unpin_for.workflow_id
    ) then
      perform notika._suspend_guard(true);
      execute format('drop function if exists notika._capture_%s() cascade', _unpin_for.workflow_id);
      perform notika._suspend_guard(false);
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
  'Lifts the pins of a workflow that would refuse a command on this table; null: the command is '
  'not about a table.';

create or replace function notika._unpin_for_command(tag text, context text, path text)
  returns void
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set jit = off -- compilation would take longer than the queries run
  set quote_all_identifiers = off
  set standard_conforming_strings = on
  set client_min_messages = warning -- no notices about cascading drops, which the caller did not ask for
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
  perform notika._check_snapshot();
  context := regexp_replace(context, E'^[^\n]*\n?', ''); -- without the line of the guard itself
  if context = '' and current_query() !~* '\m(drop|type)\M' then
    return; -- a pin refuses only DROP and TYPE
  end if;
  v_command := notika._current_command(current_query(), context);
  if v_command is null or v_command !~* '\m(drop|type)\M' then
    return;
  end if;
  if tag in ('DROP SCHEMA', 'DROP OWNED') then
    perform notika._refuse_own_drop(v_command);
  end if;

  if tag = 'ALTER TYPE' then
    -- The attributes of composite types are pinned too.  The command does not lock tables that use
    -- the type.
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
          perform notika._suspend_guard(true);
          execute format('drop function %s cascade', v_function);
          perform notika._suspend_guard(false);
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
         -- Any occurrence of a column's name counts, also of a name given in this transaction.  At
         -- worst, pins are lifted and restored without need.
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

comment on function notika._unpin_for_command(text, text, text) is
  'Called by the event trigger for the start of a command: lifts the pins that would refuse the '
  'command, because the transaction is judged at commit.';
