-- Findings: the differences between a workflow's contract and its table.
--
-- The guard reports every migration that breaks a workflow.
-- Pins: the payload functions and the conditions of triggers depend on the columns they read, so
-- Postgres itself refuses to drop a column or change its type.  Where event triggers can be
-- created, the guard lifts the pins before such a command and judges the result of the transaction
-- at COMMIT.
-- A transaction may then drop a column and add it again, or swap tables, if the result is sound.
-- An internal error of the guard is a warning and never makes a migration fail.

create or replace function notika._has_labels(contract notika.contract)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if contract.label_ids is null then
    return contract.labels <@ coalesce(notika._labels(contract.type), '{}');
  end if;
  -- Compare by oid: labels may have swapped their names, and labels may have been added.
  return not exists (
    select from unnest(contract.labels, contract.label_ids) as l (label, id)
      left join pg_enum as e on e.oid = l.id
     where e.enumlabel is distinct from l.label
  );
end;
$$;

comment on function notika._has_labels(notika.contract) is
  'Whether the enums in a column''s type still have their labels. Added labels do not matter.';

create or replace function notika._is_as_published(
  type smallint,
  column_count integer,
  is_unfiltered boolean,
  spec notika.workflow,
  operation text
)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  select type = case (spec).capture when 'row' then 1 else 0 end
                + case operation when 'insert' then 4 when 'delete' then 8 else 16 end
     and column_count = 0
     and is_unfiltered = not exists (
       select from unnest((spec).definition) as d (statement)
        where d.statement like format(E'create or replace trigger notika\\_%s\\_%s\n%%\n  when (%%',
                                      (spec).workflow_id, operation)
     );
$$;

comment on function notika._is_as_published(smallint, integer, boolean, notika.workflow, text) is
  'Whether a trigger fires at the same events as the workflow''s trigger for this operation: for '
  'each row or statement, for any column, with or without a WHEN.';

create or replace function notika._column_change(
  spec notika.workflow,
  contract notika.contract,
  attribute pg_attribute
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_change text := notika._type_change(attribute.atttypid, attribute.atttypmod, contract.type, contract.typmod);
  v_strings constant oid[] := '{text,varchar}'::regtype[];
begin
  -- A condition may compute something else if a column it reads has another type.
  if v_change <> 'type_changed'
     and notika._base_type(attribute.atttypid) <> notika._base_type(contract.type)
     and not (notika._base_type(attribute.atttypid) = any (v_strings)
              and notika._base_type(contract.type) = any (v_strings))
     and (notika._reads(spec.condition, contract.column_name)
          or notika._reads(spec.condition, attribute.attname))
  then
    return 'type_changed';
  end if;
  return v_change;
end;
$$;

comment on function notika._column_change(notika.workflow, notika.contract, pg_attribute) is
  'Classifies a change of a column''s type for a workflow, like _type_change, but stricter if the '
  'condition reads the column.';

create or replace function notika._is_outdated(spec notika.workflow)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case
           when (spec).capture = 'statement' then notika._form(spec) = 'row'
           when (spec).columns is null
             then notika._listed_shape((spec).definition) <> notika._shape((spec).relation)
           else false
         end;
$$;

comment on function notika._is_outdated(notika.workflow) is
  'Whether the triggers of a workflow no longer fit its table and may miss changes. Event triggers '
  'prevent that.';

create or replace function notika._findings(spec notika.workflow)
  returns table (kind text, object text, expected text, actual text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
  -- Planning these queries takes longer than running them.
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_quoted text := notika._quoted(spec.relation);
begin
  if spec.table_name is null then
    return; -- the workflow has no table
  end if;
  if v_quoted is distinct from spec.table_name and notika._table(spec.table_name) is not null then
    return query
      select 'table_replaced', spec.table_name, 'the table that was published',
             'another table of that name; the published one is '
             || coalesce('now ' || v_quoted, 'gone');
  elsif v_quoted is null then
    return query select 'table_dropped', spec.table_name, 'a table', null::text;
  elsif v_quoted <> spec.table_name then
    return query select 'table_renamed', spec.table_name, spec.table_name, v_quoted;
  end if;
  if v_quoted is null then
    return;
  end if;

  return query
    select k.kind, format('%s.%I', spec.table_name, c.column_name), k.expected, k.actual
      from notika.contract as c
      left join pg_attribute as a
        on a.attrelid = spec.relation and a.attnum = c.attnum and not a.attisdropped
     cross join lateral (
       -- Report each change separately: a column may have been renamed and given another type.
       select 'column_dropped', c.type_name, null
        where a.attnum is null
       union all
       select 'column_renamed', c.column_name, a.attname::text
        where a.attname <> c.column_name
       union all
       -- For another enum of the same name, show the labels.
       select notika._column_change(spec, c, a),
              case when format_type(a.atttypid, a.atttypmod) = c.type_name and c.labels is not null
                   then c.labels::text
                   else c.type_name end,
              case when format_type(a.atttypid, a.atttypmod) = c.type_name and c.labels is not null
                   then notika._labels(a.atttypid)::text
                   else format_type(a.atttypid, a.atttypmod) end
        where a.atttypid <> c.type or a.atttypmod <> c.typmod
       union all
       select 'type_changed', c.attributes::text, notika._attributes(a.atttypid)::text
        where a.atttypid = c.type and a.atttypmod = c.typmod and c.attributes is not null
          and not c.attributes <@ coalesce(notika._attributes(a.atttypid), '{}')
       union all
       select 'label_renamed', c.labels::text, notika._labels(a.atttypid)::text
        where a.atttypid = c.type and a.atttypmod = c.typmod and c.labels is not null
          and not notika._has_labels(c)
     ) as k (kind, expected, actual)
     where c.workflow_id = spec.workflow_id;

  return query
    select case
             when t.oid is null and f.relation not in (
               select c.relation from notika.contract_table as c where c.workflow_id = spec.workflow_id
             ) then 'part_not_captured'
             when t.oid is null then 'trigger_dropped'
             when t.tgenabled not in ('O', 'A') then 'trigger_disabled'
             else 'trigger_replaced'
           end,
           format('%I on %s', format('notika_%s_%s', spec.workflow_id, o.name),
                  notika._quoted(f.relation)),
           case when t.oid is null or t.tgenabled in ('D', 'R') then 'enabled' else 'as published' end,
           case t.tgenabled when 'D' then 'disabled' when 'R' then 'enabled for replicas only'
                            else pg_get_triggerdef(t.oid) end
      from notika._family(spec.relation) as f (relation)
     cross join unnest(spec.operations) as o (name)
      left join pg_trigger as t
        on t.tgrelid = f.relation and t.tgname = format('notika_%s_%s', spec.workflow_id, o.name)
     where t.oid is null or t.tgenabled not in ('O', 'A')
        or t.tgfoid is distinct from
           to_regprocedure(format('notika._capture_%s()', spec.workflow_id))
        -- A trigger of that name created by hand fires at other events, or its WHEN reads other
        -- things.
        or not notika._is_as_published(t.tgtype, cardinality(t.tgattr::int2[]), t.tgqual is null,
                                       spec, o.name)
        or t.tgqual is not null and case
          when not spec.is_pinned then not exists (
            select from pg_depend as d
             where d.classid = 'pg_trigger'::regclass and d.objid = t.oid
               and d.refclassid = 'pg_proc'::regclass and d.refobjid <> t.tgfoid
          )
          when pg_get_triggerdef(t.oid) like '%::regprocedure IS NOT NULL)%' then not exists (
            select from pg_depend as d
             where d.classid = 'pg_trigger'::regclass and d.objid = t.oid
               and d.refclassid = 'pg_proc'::regclass
               and d.refobjid = notika._payload_function(spec.workflow_id, f.relation)
          )
          -- A condition need not read a column.
          else spec.condition is null and (spec.watch is null or o.name <> 'update') or exists (
            select from pg_depend as d
             where d.classid = 'pg_trigger'::regclass and d.objid = t.oid
               and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0
          ) <> (notika._reads(spec.condition) or o.name = 'update' and spec.watch is not null)
        end;

  return query
    select 'function_replaced', format('notika._capture_%s()', spec.workflow_id), 'as published',
           'another body, owner or security setting'
      from pg_proc as p
      join pg_namespace as n on n.oid = p.pronamespace
     where p.oid = to_regprocedure(format('notika._capture_%s()', spec.workflow_id))
       and (not p.prosecdef or p.proowner <> n.nspowner or not exists (
         select from unnest(spec.definition) as d (statement)
          where strpos(d.statement, p.prosrc) > 0
       ));

  return query
    select 'partition_detached', notika._quoted(c.relation),
           format('a partition or child of %s', spec.table_name), 'a separate table'
      from notika.contract_table as c
     where c.workflow_id = spec.workflow_id
       and notika._quoted(c.relation) is not null
       and c.relation not in (select t from notika._tables(spec.relation) as t);

  return query
    select 'part_not_captured', notika._quoted(p.relid), 'an enabled trigger', null::text
      from pg_partition_tree(spec.relation) as p
     cross join unnest(spec.operations) as o (name)
     where p.level > 0 and not exists (
       select from pg_trigger as t
        where t.tgrelid = p.relid and t.tgenabled in ('O', 'A')
          and t.tgfoid = to_regprocedure(format('notika._capture_%s()', spec.workflow_id))
          and (t.tgtype & case o.name when 'insert' then 4 when 'delete' then 8 else 16 end) > 0
     );

  if not notika._is_complete(spec) then
    return query
      select 'right_missing', m.object, m.privilege, null::text from notika._missing_to_make(spec) as m;
  end if;
  if spec.condition_uses is not null and (not spec.is_pinned or not notika._is_complete(spec))
     and notika._lost_meaning(spec.condition_uses) is not null
  then
    return query
      select 'condition_changed', spec.table_name,
             'names with the same meaning as when it was published',
             notika._lost_meaning(spec.condition_uses) || ' was replaced or has become ambiguous';
  end if;

  if notika._is_outdated(spec) then
    return query
      select 'form_outdated', spec.table_name, 'triggers that fit the table',
             'triggers that fit an earlier form of the table';
  end if;

  return query
    select 'rule', format('%I on %s', r.rulename, spec.table_name), 'no rule instead of writes',
           pg_get_ruledef(r.oid)
      from pg_rewrite as r
     where r.ev_class = spec.relation and r.is_instead;
end;
$$;

comment on function notika._findings(notika.workflow) is
  'The differences between the catalog and what a workflow was published with. No rows: there are '
  'none.';

create or replace function notika._not_judged(spec notika.workflow)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select l.actual
    from notika.guard_log as l
   where l.workflow = (spec).name and l.at > (spec).published_at and l.kind = 'not_judged'
     and not exists (
       select from notika.guard_log as o
        where o.workflow = l.workflow and o.at >= l.at and o.kind = l.kind and o.verdict = 'repaired'
     )
   order by l.at desc
   limit 1;
$$;

comment on function notika._not_judged(notika.workflow) is
  'The error that kept the guard from judging a workflow, if it has not been judged since; null: '
  'there is none.';

create or replace function notika._try_findings(spec notika.workflow)
  returns table (kind text, object text, expected text, actual text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query select f.* from notika._findings(spec) as f;
exception
  when serialization_failure or deadlock_detected or lock_not_available then
    raise;
  when others then
    return query select 'not_judged', spec.table_name, 'a comparison with the catalog',
                        format('%s (%s)', sqlerrm, sqlstate);
end;
$$;

comment on function notika._try_findings(notika.workflow) is
  'The rows of _findings. An error in it is returned as a finding, so that the findings of other '
  'workflows are still reported.';

create or replace function notika._is_breaking(kind text)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select kind in ('table_dropped', 'table_replaced', 'column_dropped', 'type_changed', 'trigger_dropped',
                  'right_missing', 'condition_changed');
$$;

comment on function notika._is_breaking(text) is
  'Whether a workflow cannot continue after a finding of this kind.';

create or replace function notika._is_rename(kind text)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select kind in ('table_renamed', 'column_renamed', 'label_renamed');
$$;

comment on function notika._is_rename(text) is
  'Whether on_rename decides about findings of this kind.';

create or replace function notika._may_make(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return notika._lost_meaning(spec.condition_uses) is null
     and not exists (
       select from notika._planned_functions(spec.relation) as f where f.is_partition_key
     )
     and not exists (select from notika._missing_to_make(spec));
end;
$$;

comment on function notika._may_make(notika.workflow) is
  'Whether the functions and triggers of a workflow can be created: its condition has the same '
  'meaning as before, and the owner of Notika has the rights.';

create or replace function notika._missing_to_make(spec notika.workflow)
  returns table (privilege text, object text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select n.privilege, n.object
      from notika._needed_rights(spec.relation, null) as n
     where not n.is_had and n.privilege <> 'select'
       and (spec.columns is not null or n.object not like 'type %');
end;
$$;

comment on function notika._missing_to_make(notika.workflow) is
  'The rights that the owner of Notika lacks to create the functions and triggers of a workflow.';
