-- What captures follows the key of its table, which it needs for what is left of a row that is too
-- big, and the names of columns where it is parsed again in each session.

create or replace function notika._renew_capture(before notika.workflow, after notika.workflow)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_statement text;
begin
  for v_statement in
    select notika._capture_definition(after)
     where to_regprocedure(format('notika._capture_%s()', after.workflow_id)) is not null
    union all
    -- What an owner who must not parse the condition makes of it lets every row pass.
    select notika._passes_definition(after)
     where not after.is_pinned and after.condition is not null
       and to_regprocedure(format('notika._passes_%s(record, record)', after.workflow_id)) is not null
  loop
    continue when v_statement = any (before.definition);
    perform notika._set_busy(true);
    execute v_statement; -- the function alone: it takes no lock on the table
    perform notika._set_busy(false);
    update notika.workflow as w
       set definition = array(
             select case when split_part(d.statement, '(', 1) = split_part(v_statement, '(', 1)
                         then v_statement else d.statement end
               from unnest(w.definition) with ordinality as d (statement, place)
              order by d.place
           )
     where w.workflow_id = after.workflow_id;
  end loop;
end;
$$;

comment on function notika._renew_capture(notika.workflow, notika.workflow) is
  'Makes the trigger function of a workflow, and that of its condition, again if they would be others now.';

create or replace function notika._follow_key(spec notika.workflow)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before notika.workflow;
  v_capture constant text := 'create or replace function notika._capture_';
begin
  if array(
       select format('%s %s %s', k.attnum, k.type, k.column_name)
         from notika.contract_key as k
        where k.workflow_id = spec.workflow_id
        order by k.place
     ) = array(
       select format('%s %s %s', k.attnum, k.type, k.column_name)
         from notika._key_of(spec.relation) as k
        order by k.place
     )
  then
    return;
  end if;
  perform notika._bind_key(spec.workflow_id);

  -- Where more than that has changed, it is for publish or install to put right.
  select w.* into v_before from notika.workflow as w where w.workflow_id = spec.workflow_id;
  spec.capture := v_before.capture;
  spec.is_pinned := v_before.is_pinned;
  if array(select d from unnest(v_before.definition) as d where not starts_with(d, v_capture))
     = array(select d from unnest(notika._definition(spec)) as d where not starts_with(d, v_capture))
  then
    perform notika._renew_capture(v_before, spec);
  end if;
end;
$$;

comment on function notika._follow_key(notika.workflow) is
  'Writes down another key of a workflow''s table, and makes what captures again for it.';
