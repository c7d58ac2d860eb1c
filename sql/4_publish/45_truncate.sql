-- TRUNCATE of a table whose deletes start a workflow. It removes rows without an event for any of
-- them, so the option truncate of the workflow says what happens. Postgres fires no trigger of a
-- partitioned table when one of its partitions is truncated alone.

create or replace function notika._notices_truncate(spec notika.workflow)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select 'delete' = any ((spec).operations)
     and (select c.relkind in ('r', 'p') from pg_class as c where c.oid = (spec).relation);
$$;

comment on function notika._notices_truncate(notika.workflow) is
  'Whether a workflow has triggers for TRUNCATE: if deletes start it, and its table can have such '
  'triggers.';

create or replace function notika._truncate_definition(workflow_id integer)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  select format(E'create or replace function notika._truncated_%1$s()\n'
                '  returns trigger\n'
                '  language plpgsql\n'
                '  security definer\n'
                '  set search_path = pg_catalog, pg_temp\n'
                'as ''begin perform notika._note_truncate(%1$s, tg_relid); return null; end''',
                _truncate_definition.workflow_id);
$$;

comment on function notika._truncate_definition(integer) is
  'The statement that creates the function of a workflow''s triggers for TRUNCATE.';

create or replace function notika._truncate_trigger(workflow_id integer, relation regclass)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
as $$
begin
  return format(E'create or replace trigger notika_%1$s_truncate\n'
                '  after truncate on %2$s\n'
                '  for each statement\n'
                '  execute function notika._truncated_%1$s(%3$L)',
                _truncate_trigger.workflow_id, notika._quoted(_truncate_trigger.relation),
                (select w.name from notika.workflow as w where w.workflow_id = _truncate_trigger.workflow_id));
end;
$$;

comment on function notika._truncate_trigger(integer, regclass) is
  'The statement that creates the trigger for TRUNCATE on a table of a workflow.';

create or replace function notika._truncate_tables(workflow_id integer)
  returns setof text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select notika._quoted(t.tgrelid)
      from pg_depend as d
      join pg_trigger as t on t.oid = d.objid
     where d.refclassid = 'pg_proc'::regclass and d.classid = 'pg_trigger'::regclass
       and d.refobjid = to_regprocedure(format('notika._truncated_%s()', _truncate_tables.workflow_id));
end;
$$;

comment on function notika._truncate_tables(integer) is
  'The tables that have a trigger for TRUNCATE of a workflow.';

create or replace function notika._truncates_fit(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return notika._notices_truncate(spec) and not exists (
    select from notika._truncate_tables(spec.workflow_id) as t (name)
     where t.name not in (select notika._quoted(f) from notika._family(spec.relation) as f)
  );
end;
$$;

comment on function notika._truncates_fit(notika.workflow) is
  'Whether the triggers for TRUNCATE of a workflow are on no other tables than required.';

create or replace function notika._has_truncate_triggers(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return not notika._notices_truncate(spec) or not exists (
    select notika._quoted(f) from notika._family(spec.relation) as f
    except
    select t from notika._truncate_tables(spec.workflow_id) as t
  );
end;
$$;

comment on function notika._has_truncate_triggers(notika.workflow) is
  'Whether all triggers for TRUNCATE exist that a workflow needs.';

create or replace function notika._note_truncate(workflow_id integer, relation regclass)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_workflow notika.workflow;
  v_answer text;
begin
  -- Only the option may fail the statement of a user.
  begin
    select w.* into v_workflow
      from notika.workflow as w
     where w.workflow_id = _note_truncate.workflow_id and w.unpublished_at is null
       and 'delete' = any (w.operations)
       -- A child that has left the family keeps the trigger.
       and exists (select from notika._family(w.relation) as f where f = _note_truncate.relation);
    if not found or (select o.is_muted from notika._origin() as o) then
      return;
    end if;
    v_answer := coalesce(v_workflow.options ->> 'truncate', 'record');
    if v_answer <> 'refuse' then
      insert into notika.guard_log (workflow, verdict, kind, object)
      values (v_workflow.name, case v_answer when 'warn' then 'warned' else 'recorded' end,
              'table_truncated', notika._quoted(_note_truncate.relation));
    end if;
  exception when others then
    raise warning 'notika could not record the TRUNCATE of %: %', _note_truncate.relation, sqlerrm;
    return;
  end;

  if v_answer = 'refuse' then
    raise exception 'cannot truncate % because deletes wake Notika''s workflow "%"',
                    notika._quoted(_note_truncate.relation), v_workflow.name
      using errcode = 'NK003',
            detail = 'TRUNCATE removes the rows without an event for any of them.',
            hint = format('Delete them: delete from %s; or let the publisher of the workflow allow it: '
                          'select notika.configure(%L, %L);', notika._quoted(_note_truncate.relation),
                          v_workflow.name, v_workflow.options || '{"truncate": "record"}');
  elsif v_answer = 'warn' then
    raise warning 'deletes of % wake Notika''s workflow "%", but TRUNCATE gave it no event',
                  notika._quoted(_note_truncate.relation), v_workflow.name;
  end if;
end;
$$;

comment on function notika._note_truncate(integer, regclass) is
  'Records a TRUNCATE of a table whose deletes start a workflow, warns of it, or refuses it, as '
  'the option truncate of the workflow says.';

create or replace function notika._truncate_health()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select 'table_truncated', 'warning', w.name,
           format('%s was truncated at %s by %s: its rows gave no delete event', g.object,
                  date_trunc('second', g.at), g.done_by),
           format('If that must not happen again: select notika.configure(%L, %L);',
                  w.name, w.options || '{"truncate": "refuse"}')
      from notika.workflow as w
     cross join lateral (
       select l.at, l.object, l.done_by
         from notika.guard_log as l
        where l.workflow = w.name and l.kind = 'table_truncated' and l.at > w.published_at
          and l.at > clock_timestamp() - interval '1 day'
        order by l.at desc
        limit 1
     ) as g
     where w.unpublished_at is null and 'delete' = any (w.operations);
end;
$$;

comment on function notika._truncate_health() is
  'The findings of notika.health, for a day, about tables that were truncated although deletes '
  'start a workflow.';
