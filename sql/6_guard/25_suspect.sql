-- Suspects: the workflows that may have findings, and the writing of guard_log.
-- _suspects must return every workflow for which _findings has a row; it may return more.

create or replace function notika._suspects()
  returns setof integer
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with published as materialized (
    select w.workflow_id, w.relation, w.table_name, w.operations, w.capture, w.definition,
           w.broken_reason,
           format('notika_%s_', w.workflow_id) as prefix, w as spec
      from notika.workflow as w
     where w.unpublished_at is null and w.table_name is not null
  )
  select w.workflow_id
    from published as w
    left join pg_class as c on c.oid = w.relation
    left join pg_namespace as n on n.oid = c.relnamespace
   where w.broken_reason is not null
      or w.table_name is distinct from quote_ident(n.nspname) || '.' || quote_ident(c.relname)
      or c.relhasrules
  union
  select c.workflow_id
    from published as w
    join notika.contract as c on c.workflow_id = w.workflow_id
    left join pg_attribute as a on a.attrelid = w.relation and a.attnum = c.attnum
   where a.attnum is null or a.attisdropped or a.attname <> c.column_name
      or a.atttypid <> c.type or a.atttypmod <> c.typmod
      or c.labels is not null or c.attributes is not null
  union
  select w.workflow_id
    from published as w
    join notika.contract_table as c on c.workflow_id = w.workflow_id
   cross join unnest(w.operations) as o (name)
    left join pg_trigger as t on t.tgrelid = c.relation and t.tgname = (w.prefix || o.name)::name
   where t.oid is null or t.tgenabled not in ('O', 'A')
      or not notika._is_as_published(t.tgtype, cardinality(t.tgattr::int2[]), t.tgqual is null,
                                     w.spec, o.name)
      or t.tgqual is not null and t.tgparentid = 0 and not exists (
        -- The objects that the WHEN of a published trigger reads.
        select from pg_depend as d
         where d.classid = 'pg_trigger'::regclass and d.objid = t.oid
           and (d.refclassid = 'pg_proc'::regclass and d.refobjid <> t.tgfoid
                or d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0)
      )
      or c.relation <> w.relation and not exists (
        select from pg_inherits as i where i.inhrelid = c.relation
      )
  union
  select w.workflow_id
    from published as w
   where notika._listed_shape(w.definition) <> notika._shape(w.relation)
      or w.capture = 'statement' and (
        not (select notika._has_event_triggers())
        or exists (select from pg_inherits as i where i.inhrelid = w.relation)
        or exists (select from pg_inherits as i where i.inhparent = w.relation)
        or exists (
          select from pg_trigger as t
           where t.tgrelid = w.relation and t.tgname !~ '^notika_'
             and t.tgtype & 66 = 0 -- neither before nor instead
             and (w.operations = '{delete}' or not t.tgisinternal)
        )
      )
  union
  -- The key has changed, so the capture functions must be created again.
  select w.workflow_id
    from published as w
    left join lateral (
      select i.indrelid, i.indkey::int2[] as attnums, i.indnkeyatts
        from pg_index as i
       where i.indrelid = w.relation and (i.indisprimary or i.indisreplident)
       order by i.indisprimary desc
       limit 1
    ) as i on true
   where w.broken_reason is null
     and array(
       select format('%s %s %s', k.attnum, k.type, k.column_name)
         from notika.contract_key as k
        where k.workflow_id = w.workflow_id
        order by k.place
     ) <> array(
       select format('%s %s %s', a.attnum, a.atttypid, a.attname)
         from unnest(i.attnums) with ordinality as k (attnum, place)
         join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.attnum
        where k.place <= i.indnkeyatts
        order by k.place
     )
  union
  -- A partitioned table has another owner, which needs a right.
  select c.workflow_id
    from notika.contract_table as c
    join pg_class as k on k.oid = c.relation and k.relkind = 'p'
    join published as w on w.workflow_id = c.workflow_id
   where exists (select from notika._capture_grants(w.workflow_id, w.relation))
  union
  -- The workflow could not be judged before, but perhaps can be now.
  select w.workflow_id
    from notika.guard_log as l
    join published as w on (w.spec).name = l.workflow
   where l.kind = 'not_judged' and notika._not_judged(w.spec) is not null
  union
  -- A partition or child has been added.
  select c.workflow_id
    from notika.contract_table as c
    join pg_inherits as i on i.inhparent = c.relation
   where not exists (
     select from notika.contract_table as o
      where o.workflow_id = c.workflow_id and o.relation = i.inhrelid
   )
  union
  select w.workflow_id
    from published as w
    left join pg_proc as p
      on p.proname = format('_capture_%s', w.workflow_id)
     and p.pronamespace = 'notika'::regnamespace
    left join pg_namespace as n on n.oid = p.pronamespace
   where p.oid is null or not p.prosecdef or p.proowner <> n.nspowner
      or not exists (
        select from unnest(w.definition) as d (statement) where strpos(d.statement, p.prosrc) > 0
      );
$$;

comment on function notika._suspects() is
  'The workflows that may have findings, selected by a few queries over all workflows.';

create or replace function notika._has_all_it_needs(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select exists (select from pg_class as t where t.oid = (spec).relation)
       and not exists (
         select from notika.contract as c
           left join pg_attribute as a
             on a.attrelid = (spec).relation and a.attnum = c.attnum and not a.attisdropped
          where c.workflow_id = (spec).workflow_id
            and (a.attnum is null
                 or (a.atttypid <> c.type or a.atttypmod <> c.typmod)
                    and notika._column_change(spec, c, a) = 'type_changed'
                 or case when c.attributes is not null
                         then not c.attributes <@ coalesce(notika._attributes(a.atttypid), '{}') end)
       )
  );
end;
$$;

comment on function notika._has_all_it_needs(notika.workflow) is
  'Whether the table of a workflow, and the columns it was published with, exist.';

create or replace function notika._record(
  spec notika.workflow,
  verdict text,
  kind text,
  object text,
  statement text,
  expected text default null,
  actual text default null
)
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  insert into notika.guard_log (workflow, verdict, kind, object, expected, actual, statement)
  values ((_record.spec).name, _record.verdict, _record.kind, _record.object, _record.expected,
          _record.actual, _record.statement);
$$;

comment on function notika._record(notika.workflow, text, text, text, text, text, text) is
  'Appends an entry to guard_log.';
