-- The triggers of a workflow, with its condition and watched columns as their WHEN.

create or replace function notika._changed_expression(
  column_name text,
  type oid,
  collation_id oid default 0
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select format(
             case
               when t.oid >= 16384 or not exists (
                 select from pg_opclass as o
                  where o.opcdefault
                    and o.opcmethod = (select m.oid from pg_am as m where m.amname = 'btree')
                    and (
                      o.opcintype = coalesce(e.oid, t.oid)
                      or t.typtype = 'r' and o.opcintype = 'anyrange'::regtype
                      or t.typtype = 'm' and o.opcintype = 'anymultirange'::regtype
                      or exists (
                        select from pg_cast as c
                         where c.castsource = coalesce(e.oid, t.oid)
                           and c.casttarget = o.opcintype
                           and c.castmethod = 'b' and c.castcontext = 'i'
                      )
                    )
               )
               -- json has no equality, and comparing it would fail the user's update.
               then 'pg_catalog.format(''%%s'', old.%1$I) is distinct from '
                    'pg_catalog.format(''%%s'', new.%1$I)'
               -- Under some collations, values are equal that are not the same.
               when not l.collisdeterministic
               then 'old.%1$I collate "C" is distinct from new.%1$I collate "C"'
               else 'old.%1$I is distinct from new.%1$I'
             end,
             _changed_expression.column_name
           )
      from pg_type as t
      left join pg_type as e on e.oid = t.typelem and t.typcategory = 'A'
      left join pg_collation as l on l.oid = _changed_expression.collation_id
     where t.oid = notika._base_type(_changed_expression.type)
  );
end;
$$;

comment on function notika._changed_expression(text, oid, oid) is
  'SQL over new and old that is true if the column changed, whatever its type.';

create or replace function notika._trigger_definition(
  spec notika.workflow,
  relation regclass,
  operation text
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_changed text := case operation when 'delete' then 'old' else 'new' end;
  v_filters text[];
begin
  if not spec.is_pinned and spec.condition is not null then
    v_filters := v_filters || format(
      'notika._passes_%s(%s, %s)', spec.workflow_id,
      case operation when 'delete' then 'null' else 'new.*' end, -- .*: a column may be called new
      case operation when 'insert' then 'null' else 'old.*' end
    );
  end if;
  if spec.is_pinned and operation = 'update' and spec.watch is not null then
    perform notika._expect_columns(_trigger_definition.relation, spec.watch);
    v_filters := v_filters || (
      select format('(%s)', string_agg(
               notika._changed_expression(w.name, a.atttypid, a.attcollation), ' or '
               order by w.place))
        from unnest(spec.watch) with ordinality as w (name, place)
        join pg_attribute as a
          on a.attrelid = _trigger_definition.relation and a.attname = w.name
    );
  end if;
  if spec.is_pinned and spec.condition is not null then
    v_filters := v_filters || format('(%s)', notika._condition_code(spec));
  end if;
  if notika._is_held(spec) then
    -- Never false, but a dependency: dropping the payload function with CASCADE drops the trigger
    -- too, instead of leaving one that fails the user's writes.
    v_filters := v_filters || format(
      '(%L::pg_catalog.regprocedure is not null)',
      format('notika.payload_%s(%s)', spec.workflow_id,
             notika._quoted(_trigger_definition.relation))
    );
  end if;

  -- The function does not read its argument: in psql's \d it shows the workflow of the trigger.
  return format(
    E'create or replace trigger notika_%1$s_%2$s\n'
    '  after %2$s on %3$s\n'
    '%4$s%5$s'
    '  execute function notika._capture_%1$s(%6$L)',
    spec.workflow_id,
    operation,
    notika._quoted(_trigger_definition.relation),
    case spec.capture when 'row' then E'  for each row\n'
      else format(E'  referencing %s table as changed\n  for each statement\n', v_changed) end,
    E'  when (' || array_to_string(v_filters, E'\n    and ') || E')\n',
    spec.name
  );
end;
$$;

comment on function notika._trigger_definition(notika.workflow, regclass, text) is
  'The statement that creates the trigger of a workflow for one operation.';

create or replace function notika._passes_definition(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
begin
  -- With the writer's rights, like the condition of a trigger. Its names are looked up again in
  -- each session, so before that they must mean what they meant when it was published.
  return format($template$create or replace function notika._passes_%s(new record, old record)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as %s$template$,
    (spec).workflow_id,
    notika._dollar_quoted(format($passes$
begin
  if (%s) is not true then
    return true;
  end if;
  return %s;
exception when others then
  return true; -- what it reads no longer exists: an event too many is better than one too few
end;
$passes$, case when notika._lost_meaning((spec).condition_uses) is null
               then concat(notika._names_hold_code((spec).condition_uses), notika._columns_hold_code(spec))
               else 'false' end,
         notika._condition_code(spec)), 'passes'));
end;
$body$;

comment on function notika._passes_definition(notika.workflow) is
  'The statement that creates a function of the condition, which is parsed in each session.';
