-- The form of a workflow's functions and triggers that pins nothing: while a migration is let
-- through, while a workflow is broken, and where a guard that only warns has no event triggers.
-- Slower than the pinned form, and never the reason why a write fails: a column is found by its
-- name or else by its number, and one that is gone is left out.

create or replace function notika._is_copy()
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select from notika.guard_state as s
     where s.workflow_table <> 'notika.workflow'::regclass::oid
  );
end;
$$;

comment on function notika._is_copy() is
  'Whether this is a restored copy whose workflows have not been bound to its tables yet.';

create or replace function notika._present_columns(workflow_id integer, names text[], part regclass)
  returns table (place bigint, name text, type oid, attnum smallint)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- A column is told by its number, and where it is gone by its name, unless that has gone to another
  -- column of the workflow.  Numbers are those of the published table, a part of it may have others; and
  -- in a restored copy they are nothing before the copy is bound.
  return query
    select k.place, a.attname::text, a.atttypid, a.attnum
      from unnest(_present_columns.names) with ordinality as k (name, place)
      join notika.workflow as w on w.workflow_id = _present_columns.workflow_id
      left join notika.contract as c
        on c.workflow_id = w.workflow_id and c.column_name = k.name and not (select notika._is_copy())
      left join pg_attribute as r
        on r.attrelid = w.relation and r.attnum = c.attnum and not r.attisdropped
      left join pg_attribute as n
        on n.attrelid = w.relation and n.attname = k.name and n.attnum > 0 and not n.attisdropped
       and r.attnum is null and not exists (
         select from notika.contract as o
          where o.workflow_id = w.workflow_id and o.attnum = n.attnum and not (select notika._is_copy())
       )
      join pg_attribute as a
        on a.attrelid = _present_columns.part
       and a.attname = coalesce(r.attname, n.attname) and a.attnum > 0 and not a.attisdropped;
end;
$$;

comment on function notika._present_columns(integer, text[], regclass) is
  'Which of these columns of a workflow are still there, and as what.';

create or replace function notika._loose_image(changed anyelement, part regclass, workflow_id integer)
  returns json
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
  set datestyle = 'ISO, YMD'
  set intervalstyle = 'iso_8601'
  set bytea_output = 'hex'
  set extra_float_digits = '1'
  set lc_monetary = 'C'
  set quote_all_identifiers = off
as $$
declare
  v_spec notika.workflow;
  v_object text;
  v_image json;
begin
  select w.* into v_spec from notika.workflow as w where w.workflow_id = _loose_image.workflow_id;
  if v_spec.columns is null then
    return notika._whole_row(changed, part);
  end if;

  select notika._value_expression(
           array_agg(v_spec.columns[p.place] order by p.place),
           array_agg(format('($1).%I', p.name) order by p.place)
         )
    into v_object
    from notika._present_columns(v_spec.workflow_id, v_spec.column_names, part) as p;
  execute format('select %s', v_object)
    into v_image
    using changed;
  return v_image;
end;
$$;

comment on function notika._loose_image(anyelement, regclass, integer) is
  'What an event carries of a row, as far as the columns are still there.';

create or replace function notika._is_watched_change(
  new_row anyelement,
  old_row anyelement,
  part regclass,
  workflow_id integer
)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_columns smallint[];
begin
  select array_agg(p.attnum) into v_columns
    from notika.workflow as w
   cross join notika._present_columns(w.workflow_id, w.watch, part) as p
   where w.workflow_id = _is_watched_change.workflow_id;
  -- Rather an event too many than one too few.
  return v_columns is null
      or notika._pick(new_row, part, v_columns)::text
         is distinct from notika._pick(old_row, part, v_columns)::text;
end;
$$;

comment on function notika._is_watched_change(anyelement, anyelement, regclass, integer) is
  'Whether an update changed one of the watched columns that are still there.';

create or replace function notika._columns_hold_code(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
begin
  -- In the catalog alone: the writer has no right on Notika.  In a restored copy all numbers are others.
  -- The types because a session would go on with its plan, and fail.
  return (
    with read (attnum, attname, type) as (
      select a.attnum, a.attname, a.atttypid
        from pg_attribute as a
       where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped
         and notika._reads(spec.condition_sql, a.attname)
    ), label (oid, name) as (
      select distinct e.oid, e.enumlabel
        from (
          select l.type from read as r cross join lateral notika._leaf_types(r.type) as l (type)
          union
          select u.oid from jsonb_to_recordset(spec.condition_uses) as u (kind text, oid oid) where u.kind = 'type'
        ) as t
        join pg_enum as e on e.enumtypid = t.type
    )
    select E'\n     and (not exists (select from pg_class as c where c.relname = ''workflow'' and c.oid = '
           || 'notika.workflow'::regclass::oid || ')'
           || E'\n          or ' || string_agg(h.code, E'\n             and ' order by h.code) || ')'
      from (
        select format('%s = (select count(*) from pg_attribute as a where a.attrelid = %s '
                      'and (a.attnum, a.attname, a.atttypid) in (%s))', count(*), spec.relation::oid,
                      string_agg(format('(%s, %L, %s)', r.attnum, r.attname, r.type), ', ' order by r.attnum))
          from read as r
        having count(*) > 0
        union all
        select format('%s = (select count(*) from pg_enum as e where (e.oid, e.enumlabel) in (%s))', count(*),
                      string_agg(format('(%s, %L)', l.oid, l.name), ', ' order by l.oid))
          from label as l
        having count(*) > 0
      ) as h (code)
  );
end;
$$;

comment on function notika._columns_hold_code(notika.workflow) is
  'SQL that is true while the columns that a condition reads, and the labels of their enums, have the '
  'names and types that they have now; null: it reads none.';

create or replace function notika._passes_definition(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
begin
  -- With the writer's rights, like the condition of a trigger.  Its names are found again in each
  -- session, so before that they must mean what they meant when it was published.
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
  return true; -- what it reads is not there any more: rather an event too many than one too few
end;
$passes$, case when notika._lost_meaning((spec).condition_uses) is null
               then concat(notika._names_hold_code((spec).condition_uses), notika._columns_hold_code(spec))
               else 'false' end,
         notika._condition_code(spec)), 'passes'));
end;
$body$;

comment on function notika._passes_definition(notika.workflow) is
  'The statement that makes a function of the condition, which is parsed in each session.';

create or replace function notika._has_event_triggers()
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select 3 = (
    select count(*) from pg_event_trigger as e
     where e.evtname in ('notika_guard_start', 'notika_guard_drop', 'notika_guard_end')
       and e.evtenabled in ('O', 'A')
       and coalesce(current_setting('event_triggers', true), 'on') = 'on'
  );
$$;

comment on function notika._has_event_triggers() is
  'Whether the guard judges at commit; otherwise only the pins refuse.';
