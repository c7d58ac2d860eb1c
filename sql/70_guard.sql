-- The guard: no migration breaks a workflow without a word.
-- The payload functions and the triggers' conditions pin what they read, so Postgres by itself
-- refuses to drop or retype it.  Where event triggers can be created there is more: a command that
-- would be refused is let through, and the state that the transaction leaves is judged at COMMIT,
-- so that dropping and adding again, or swapping tables, passes when what it leaves is sound.
-- A failure of the guard itself is a warning, never somebody's failed migration.

create table if not exists notika.contract (
  workflow_id integer not null,
  column_name text not null,
  attnum smallint not null,
  type_name text not null,
  type oid not null,
  typmod integer not null,
  labels text[],
  label_ids oid[],
  attributes text[],
  constraint contract_pkey primary key (workflow_id, column_name),
  constraint contract_workflow_id_fkey foreign key (workflow_id) references notika.workflow
);
create index if not exists contract_type_idx on notika.contract (type);

comment on table notika.contract is
  'The columns that each workflow depends on, by its payload, its watch or its condition.';
comment on column notika.contract.workflow_id is 'The workflow.';
comment on column notika.contract.column_name is 'The column, as it is called now.';
comment on column notika.contract.attnum is 'Its number in the published table.';
comment on column notika.contract.type_name is 'Its type when it was published, written out.';
comment on column notika.contract.type is 'The same without its modifier, for the catalog.';
comment on column notika.contract.typmod is 'The type''s modifier.';
comment on column notika.contract.labels is 'The labels of the enums in it.';
comment on column notika.contract.label_ids is
  'Their numbers, which stay when they are renamed; null: another type has taken its place since.';
comment on column notika.contract.attributes is 'The attributes of the composite types in it.';

create table if not exists notika.contract_key (
  workflow_id integer not null,
  place integer not null,
  column_name text not null,
  attnum smallint not null,
  type oid not null,
  constraint contract_key_pkey primary key (workflow_id, place),
  constraint contract_key_workflow_id_fkey foreign key (workflow_id) references notika.workflow
);

comment on table notika.contract_key is
  'The key of each workflow''s table, which is left of a row that is too big. It may change, and what '
  'captures is then made again.';
comment on column notika.contract_key.workflow_id is 'The workflow.';
comment on column notika.contract_key.place is 'The column''s place in the key.';
comment on column notika.contract_key.column_name is 'The column.';
comment on column notika.contract_key.attnum is 'Its number in the published table.';
comment on column notika.contract_key.type is 'Its type.';

create table if not exists notika.contract_table (
  workflow_id integer not null,
  relation oid not null,
  constraint contract_table_pkey primary key (workflow_id, relation),
  constraint contract_table_workflow_id_fkey
    foreign key (workflow_id) references notika.workflow
);
create index if not exists contract_table_relation_idx on notika.contract_table (relation);

comment on table notika.contract_table is
  'The tables whose rows each workflow captures: the published one, its partitions and children.';
comment on column notika.contract_table.workflow_id is 'The workflow.';
comment on column notika.contract_table.relation is
  'A table, as a number: a name that is not there would fail the load of a dump.';

create table if not exists notika.guard_log (
  guard_log_id bigint generated always as identity,
  at timestamptz not null default clock_timestamp(),
  xid xid8 not null default pg_current_xact_id(),
  workflow text,
  verdict text not null,
  kind text,
  object text,
  expected text,
  actual text,
  statement text,
  reason text,
  done_by name not null default session_user,
  constraint guard_log_pkey primary key (guard_log_id),
  constraint guard_log_verdict_check check (verdict in (
    'followed', 'healed', 'warned', 'allowed', 'ignored', 'broken', 'repaired', 'released', 'recorded',
    'maintenance begun', 'maintenance ended'
  ))
);
create index if not exists guard_log_xid_idx on notika.guard_log (xid);
create index if not exists guard_log_workflow_idx on notika.guard_log (workflow, at);
create index if not exists guard_log_not_judged_idx on notika.guard_log (workflow, at)
  where kind = 'not_judged';

comment on table notika.guard_log is
  'What the guard saw and did, and who let what through. A refusal leaves no trace: it rolls back.';
comment on column notika.guard_log.guard_log_id is 'Its order.';
comment on column notika.guard_log.at is 'When.';
comment on column notika.guard_log.xid is 'In which transaction.';
comment on column notika.guard_log.workflow is 'The workflow; null: all of them.';
comment on column notika.guard_log.verdict is
  'followed (a rename), healed, warned, allowed, ignored (guard off), broken, repaired, released, '
  'recorded (a TRUNCATE), maintenance begun or ended.';
comment on column notika.guard_log.kind is 'What was found, for instance column_dropped.';
comment on column notika.guard_log.object is 'The table, column or trigger.';
comment on column notika.guard_log.expected is 'What the contract says.';
comment on column notika.guard_log.actual is 'What the catalog says.';
comment on column notika.guard_log.statement is
  'The command that led to it, with empty strings and without what was sent along with it.';
comment on column notika.guard_log.reason is 'What the caller gave as the reason.';
comment on column notika.guard_log.done_by is 'The login.';

create table if not exists notika.maintenance (
  maintenance_id bigint generated always as identity,
  reason text not null,
  begun_at timestamptz not null default clock_timestamp(),
  begun_by name not null default session_user,
  ends_at timestamptz not null,
  ended_at timestamptz,
  constraint maintenance_pkey primary key (maintenance_id)
);

comment on table notika.maintenance is
  'Windows in which the guard only takes notes, for tools that do not use one transaction.';
comment on column notika.maintenance.maintenance_id is 'Its id.';
comment on column notika.maintenance.reason is 'What it is for.';
comment on column notika.maintenance.begun_at is 'Since when.';
comment on column notika.maintenance.begun_by is 'Whose it is.';
comment on column notika.maintenance.ends_at is 'When it ends by itself.';
comment on column notika.maintenance.ended_at is 'When end_maintenance ended it.';

create table if not exists notika.guard_pending (
  pending_id bigint generated always as identity,
  workflow_id integer not null,
  tag text not null,
  statement text not null,
  dropped text,
  found text[],
  constraint guard_pending_pkey primary key (pending_id)
);
create index if not exists guard_pending_workflow_idx on notika.guard_pending (workflow_id);

comment on table notika.guard_pending is
  'Workflows that are to be judged when the transaction commits, with the commands that changed what '
  'would be found; empty between transactions.';
comment on column notika.guard_pending.pending_id is 'Its order.';
comment on column notika.guard_pending.workflow_id is 'The workflow.';
comment on column notika.guard_pending.tag is 'The command.';
comment on column notika.guard_pending.statement is 'The command, with empty strings.';
comment on column notika.guard_pending.dropped is
  'A trigger or function of the workflow that was dropped by name.';
comment on column notika.guard_pending.found is
  'What would have been refused after this command: each kind and object; null: it still runs.';

create table if not exists notika.guard_state (
  only_row boolean not null default true,
  publications bigint not null default 0,
  workflow_table oid not null,
  constraint guard_state_pkey primary key (only_row),
  constraint guard_state_only_row_check check (only_row)
);
insert into notika.guard_state (workflow_table)
values ('notika.workflow'::regclass::oid)
on conflict do nothing;

comment on table notika.guard_state is 'One row by which the guard tells what it cannot see.';
comment on column notika.guard_state.only_row is 'Always true: there is one row.';
comment on column notika.guard_state.publications is
  'Counted up by publish: a migration with an older snapshot must not judge by what it sees.';
comment on column notika.guard_state.workflow_table is
  'The oid of notika.workflow, as a number: another one means that this is a restored copy.';

create table if not exists notika.guard_busy (
  pid integer not null
);

comment on table notika.guard_busy is
  'Has a row, which nobody else ever sees, while Notika itself does DDL.';
comment on column notika.guard_busy.pid is 'The session.';

create or replace function notika._set_busy(busy boolean)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  if busy then
    insert into notika.guard_busy (pid) values (pg_backend_pid());
  else
    -- One of them: whoever called is busy still.
    delete from notika.guard_busy as b where b.ctid = (select max(o.ctid) from notika.guard_busy as o);
  end if;
end;
$$;

comment on function notika._set_busy(boolean) is
  'Tells the guard that the DDL that follows is Notika''s own. A setting would do, could not anybody set it.';

create or replace function notika._labels(type oid)
  returns text[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select array_agg(e.enumlabel::text order by e.enumtypid, e.enumsortorder)
      from notika._leaf_types(_labels.type) as l (oid)
      join pg_enum as e on e.enumtypid = l.oid
     where _labels.type >= 16384
  );
end;
$$;

comment on function notika._labels(oid) is 'The labels of the enums in a type; null: there are none.';

create or replace function notika._label_ids(type oid)
  returns oid[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select array_agg(e.oid order by e.enumtypid, e.enumsortorder)
      from notika._leaf_types(_label_ids.type) as l (oid)
      join pg_enum as e on e.enumtypid = l.oid
     where _label_ids.type >= 16384
  );
end;
$$;

comment on function notika._label_ids(oid) is
  'The numbers of the labels of the enums in a type, in the order of _labels.';

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
  -- By their numbers: labels may have swapped their names, and others may have been added.
  return not exists (
    select from unnest(contract.labels, contract.label_ids) as l (label, id)
      left join pg_enum as e on e.oid = l.id
     where e.enumlabel is distinct from l.label
  );
end;
$$;

comment on function notika._has_labels(notika.contract) is
  'Whether the labels of the enums in a column''s type are what they were, but for those that were added.';

create or replace function notika._part_types(type oid)
  returns setof oid
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    with recursive part as (
      select notika._base_type(_part_types.type) as oid
      union
      select notika._base_type(inner_type.oid)
        from part as p
        join pg_type as t on t.oid = p.oid
       cross join lateral (
         select t.typelem as oid where t.typcategory = 'A'
         union all
         select a.atttypid from pg_attribute as a
          where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
       ) as inner_type
    )
    select p.oid from part as p;
end;
$$;

comment on function notika._part_types(oid) is
  'A type with those of its elements and attributes, all of them without domains.';

create or replace function notika._attributes(type oid)
  returns text[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select array_agg(format('%s %s', a.attname, format_type(a.atttypid, a.atttypmod))
                     order by a.attrelid, a.attnum)
      from notika._part_types(_attributes.type) as p (oid)
      join pg_type as t on t.oid = p.oid and t.typtype = 'c'
      join pg_attribute as a on a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
     where _attributes.type >= 16384
  );
end;
$$;

comment on function notika._attributes(oid) is
  'The attributes of the composite types in a type; null: there are none.';

create or replace function notika._tables(relation regclass)
  returns setof regclass
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select f from notika._family(_tables.relation) as f
    union
    select p.relid from pg_partition_tree(_tables.relation) as p;
end;
$$;

comment on function notika._tables(regclass) is 'A table with its partitions and children.';

create or replace function notika._key_of(relation regclass)
  returns table (place integer, column_name text, attnum smallint, type oid)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select k.place::integer, a.attname::text, a.attnum, a.atttypid
    from unnest(notika._key_columns(_key_of.relation)) with ordinality as k (attnum, place)
    join pg_attribute as a on a.attrelid = _key_of.relation and a.attnum = k.attnum;
$$;

comment on function notika._key_of(regclass) is
  'The columns of the primary key, or else of the replica identity, as the catalog says them now.';

create or replace function notika._bind_key(workflow_id integer)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  delete from notika.contract_key as k where k.workflow_id = _bind_key.workflow_id;
  insert into notika.contract_key (workflow_id, place, column_name, attnum, type)
  select w.workflow_id, k.place, k.column_name, k.attnum, k.type
    from notika.workflow as w
   cross join notika._key_of(w.relation) as k
   where w.workflow_id = _bind_key.workflow_id;
end;
$$;

comment on function notika._bind_key(integer) is
  'Writes down the key of a workflow''s table, as the catalog says it now.';

create or replace function notika._bind(workflow_id integer)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
begin
  select w.* into v_spec from notika.workflow as w where w.workflow_id = _bind.workflow_id;
  delete from notika.contract as c where c.workflow_id = _bind.workflow_id;
  delete from notika.contract_table as c where c.workflow_id = _bind.workflow_id;
  perform notika._bind_key(_bind.workflow_id);

  insert into notika.contract
    (workflow_id, column_name, attnum, type_name, type, typmod, labels, label_ids, attributes)
  select v_spec.workflow_id, a.attname, a.attnum, format_type(a.atttypid, a.atttypmod),
         a.atttypid, a.atttypmod, notika._labels(a.atttypid), notika._label_ids(a.atttypid),
         notika._attributes(a.atttypid)
    from pg_attribute as a
   where a.attrelid = v_spec.relation and a.attnum > 0 and not a.attisdropped
     and (
       a.attname = any (v_spec.column_names || v_spec.watch)
       or not v_spec.is_pinned and notika._reads(v_spec.condition, a.attname)
       -- What the condition reads, Postgres has written down.
       or exists (
         select from pg_depend as d
           join notika._triggers(v_spec.workflow_id) as t (relation, name) on true
           join pg_trigger as g on g.tgrelid = t.relation and g.tgname = t.name
          where d.classid = 'pg_trigger'::regclass and d.objid = g.oid
            and d.refclassid = 'pg_class'::regclass and d.refobjid = v_spec.relation
            and d.refobjsubid = a.attnum
       )
     );
  insert into notika.contract_table (workflow_id, relation)
  select v_spec.workflow_id, t from notika._tables(v_spec.relation) as t;
end;
$$;

comment on function notika._bind(integer) is
  'Writes down what a workflow depends on, as the catalog says it now.';

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

comment on function
  notika._is_as_published(smallint, integer, boolean, notika.workflow, text) is
  'Whether a trigger fires when that of a workflow for this operation does: after each row or '
  'statement, for any column, with a WHEN or without.';

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
  -- What a condition does with a column depends on its type.
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
  'What a change of the type of a column is to a workflow: see _type_change.';

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
  'Whether its triggers may miss changes by now, which event triggers would have noticed.';

create or replace function notika._findings(spec notika.workflow)
  returns table (kind text, object text, expected text, actual text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
  -- To plan these queries takes longer than to run them.
  set plan_cache_mode = force_generic_plan
as $$
declare
  v_quoted text := notika._quoted(spec.relation);
begin
  if spec.table_name is null then
    return; -- it is published on none
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
       -- Each by itself: a column may have been renamed and retyped.
       select 'column_dropped', c.type_name, null
        where a.attnum is null
       union all
       select 'column_renamed', c.column_name, a.attname::text
        where a.attname <> c.column_name
       union all
       -- Another type of the same name is told by its labels.
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
        -- A trigger that somebody else made is told by when it fires, and by what its WHEN reads.
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
          -- A condition may read no column at all.
          else spec.condition is null and (spec.watch is null or o.name <> 'update') or exists (
            select from pg_depend as d
             where d.classid = 'pg_trigger'::regclass and d.objid = t.oid
               and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0
          ) <> (notika._reads(spec.condition) or o.name = 'update' and spec.watch is not null)
        end;

  return query
    select 'function_replaced', format('notika._capture_%s()', spec.workflow_id), 'as published',
           'another body, owner or setting'
      from pg_proc as p
      join pg_namespace as n on n.oid = p.pronamespace
     where p.oid = to_regprocedure(format('notika._capture_%s()', spec.workflow_id))
       and (not p.prosecdef or p.proowner <> n.nspowner or not exists (
         select from unnest(spec.definition) as d (statement)
          where strpos(d.statement, p.prosrc) > 0
       ));

  return query
    select 'partition_detached', notika._quoted(c.relation),
           format('a part of %s', spec.table_name), 'a table of its own'
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
      select 'condition_changed', spec.table_name, 'names that mean what they meant when it was published',
             notika._lost_meaning(spec.condition_uses) || ' was replaced, or there is more by that name';
  end if;

  if notika._is_outdated(spec) then
    return query
      select 'form_outdated', spec.table_name, 'triggers for the table as it is now',
             'triggers for what it was when nobody watched';
  end if;

  return query
    select 'rule', format('%I on %s', r.rulename, spec.table_name), 'no rule instead of writes',
           pg_get_ruledef(r.oid)
      from pg_rewrite as r
     where r.ev_class = spec.relation and r.is_instead;
end;
$$;

comment on function notika._findings(notika.workflow) is
  'How the catalog differs from what a workflow was published with.';

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
  'Why the guard could not judge a workflow since it was published, nor since then; null: it could.';

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
  'What _findings gives; an error of it is a finding too, so that it hides no other workflow.';

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
        -- What the WHEN of a published trigger reads.
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
  -- Another key: what captures is to be made again.
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
  -- Another owner of a partitioned table, who has to have a right.
  select c.workflow_id
    from notika.contract_table as c
    join pg_class as k on k.oid = c.relation and k.relkind = 'p'
    join published as w on w.workflow_id = c.workflow_id
   where exists (select from notika._capture_grants(w.workflow_id, w.relation))
  union
  -- What could not be judged: perhaps it can be by now.
  select w.workflow_id
    from notika.guard_log as l
    join published as w on (w.spec).name = l.workflow
   where l.kind = 'not_judged' and notika._not_judged(w.spec) is not null
  union
  -- A part that is new.
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
  'The workflows that are worth a closer look, found by few queries over all of them.';

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
  'Whether a workflow cannot go on after a finding of this kind.';

create or replace function notika._is_rename(kind text)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select kind in ('table_renamed', 'column_renamed', 'label_renamed');
$$;

comment on function notika._is_rename(text) is 'Whether a finding is a matter of on_rename.';

create or replace function notika._is_complete(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    with expected (relation, name) as (
      select f.relation::oid, format('notika_%s_%s', (spec).workflow_id, o.name)
        from notika._family((spec).relation) as f (relation)
       cross join unnest((spec).operations) as o (name)
    ), there (relation, name) as (
      select t.relation::oid, t.name::text from notika._triggers((spec).workflow_id) as t
    )
    select to_regprocedure(format('notika._capture_%s()', (spec).workflow_id)) is not null
       and not exists (
         (select e.relation, e.name from expected as e except select t.relation, t.name from there as t)
         union all
         (select t.relation, t.name from there as t except select e.relation, e.name from expected as e)
       )
       and (not (spec).is_pinned or (spec).columns is null or not exists (
         select e.relation from expected as e
         except
         select t.typrelid
           from pg_proc as p
           join pg_type as t on t.oid = p.proargtypes[0]
          where p.pronamespace = 'notika'::regnamespace
            and p.proname = format('payload_%s', (spec).workflow_id)
       ))
  );
end;
$$;

comment on function notika._is_complete(notika.workflow) is
  'Whether all functions and triggers of a workflow are there, and nowhere else.';

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
  'Whether its table and the columns it was published with are there.';

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
  'Whether the functions and triggers of a workflow can be made: its condition means what it did, and '
  'the owner has the rights.';

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
  'The rights that the owner of Notika lacks to make the functions and triggers of a workflow.';

create or replace function notika._bring_into_form(before notika.workflow, after notika.workflow)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_after notika.workflow := _bring_into_form.after;
begin
  perform notika._hold_columns(v_after);
  v_after.capture := notika._form(v_after);
  v_after.definition := notika._definition(v_after);
  perform notika._set_busy(true);
  perform notika._apply(before, v_after);
  perform notika._set_busy(false);
  update notika.workflow as w
     set definition = v_after.definition, is_pinned = v_after.is_pinned, capture = v_after.capture
   where w.workflow_id = v_after.workflow_id;
end;
$$;

comment on function notika._bring_into_form(notika.workflow, notika.workflow) is
  'Makes the functions and triggers of a workflow anew, with or without pins.';

create or replace function notika._loosen(workflow_id integer)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before notika.workflow;
  v_after notika.workflow;
begin
  select w.* into v_before from notika.workflow as w where w.workflow_id = _loosen.workflow_id;
  if notika._quoted(v_before.relation) is null
     or exists (select from notika._missing_to_make(v_before)) -- which is judged
  then
    return;
  end if;
  v_after := notika._with_columns(v_before);
  v_after.is_pinned := false;
  if not v_before.is_pinned and notika._is_complete(v_before) then
    perform notika._renew_capture(v_before, v_after);
  else
    perform notika._bring_into_form(v_before, v_after);
  end if;
end;
$$;

comment on function notika._loosen(integer) is
  'Takes the pins of a workflow away; it captures on, as far as what it reads is there.';

create or replace function notika._rebind(spec notika.workflow, relation regclass, statement text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_other boolean := _rebind.relation is distinct from spec.relation;
  v_column text;
begin
  -- Another table has nothing but names; 0: it does not have the column.  In the same table a column is
  -- told by its number, and its name tells what has taken its place once it is dropped; not what another
  -- column of the contract has become.
  for v_column in
    update notika.contract as c
       set attnum = coalesce(b.attnum, 0),
           label_ids = case when b.type = c.type then c.label_ids
                            when c.labels = notika._labels(b.type) then notika._label_ids(b.type) end,
           -- Another enum of that name will do if it has all labels.
           type = case when b.type_name = c.type_name
                        and (c.labels is null or c.labels <@ notika._labels(b.type))
                       then b.type else c.type end
      from notika.contract as o
      left join lateral (
        select a.attnum, a.atttypid as type, a.atttypmod as typmod,
               format_type(a.atttypid, a.atttypmod) as type_name
          from pg_attribute as a
         where a.attrelid = _rebind.relation and not a.attisdropped
           and case
                 when not v_is_other and exists (
                   select from pg_attribute as p
                    where p.attrelid = _rebind.relation and p.attnum = o.attnum and not p.attisdropped
                 ) then a.attnum = o.attnum
                 else a.attname = o.column_name and a.attnum > 0 and (v_is_other or not exists (
                   select from notika.contract as k
                    where k.workflow_id = o.workflow_id and k.attnum = a.attnum
                 ))
               end
      ) as b on true
     where c.workflow_id = spec.workflow_id
       and o.workflow_id = c.workflow_id and o.column_name = c.column_name
       and (v_is_other or b.attnum <> o.attnum or b.type <> o.type and b.type_name = o.type_name)
    returning case when not v_is_other and (b.type_name = o.type_name
                                            or (b.type, b.typmod) = (o.type, o.typmod))
                   then c.column_name end
  loop
    continue when v_column is null;
    perform notika._record(spec, 'healed', 'column_replaced',
                           format('%s.%I', spec.table_name, v_column), statement);
  end loop;
end;
$$;

comment on function notika._rebind(notika.workflow, regclass, text) is
  'Binds the contract of a workflow to what has taken the place of columns that are gone.';

create or replace function notika._follow_columns(before notika.workflow, after notika.workflow, statement text)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_column record;
begin
  -- A column that took the name of one that is gone stays under its own until that is decided.
  if exists (
    select from notika.contract as c
      left join notika._renamed_columns(after) as r on r.old_name = c.column_name
     where c.workflow_id = after.workflow_id
     group by coalesce(r.new_name, c.column_name)
    having count(*) > 1
  ) then
    return false;
  end if;
  for v_column in select r.old_name, r.new_name from notika._renamed_columns(after) as r loop
    perform notika._record(before, 'followed', 'column_renamed',
                           format('%s.%I', before.table_name, v_column.old_name),
                           notika._statement_of(before.workflow_id, 'column_renamed',
                                                format('%s.%I', before.table_name, v_column.old_name),
                                                statement),
                           v_column.old_name, v_column.new_name);
  end loop;
  if found then
    -- In two steps, because names may have gone from one column to another.
    update notika.contract as c
       set column_name = repeat(' ', 64) || c.attnum -- longer than any name
     where c.workflow_id = after.workflow_id
       and c.column_name in (select r.old_name from notika._renamed_columns(after) as r);
    update notika.contract as c
       set column_name = a.attname
      from pg_attribute as a
     where c.workflow_id = after.workflow_id and a.attrelid = after.relation and a.attnum = c.attnum
       and c.column_name = repeat(' ', 64) || c.attnum;
  end if;
  return true;
end;
$$;

comment on function notika._follow_columns(notika.workflow, notika.workflow, text) is
  'Follows the renames of columns in the contract of a workflow; false: not yet, because two would have '
  'the same name.';

create or replace function notika._follow_labels(before notika.workflow, after notika.workflow, statement text)
  returns notika.workflow
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_after notika.workflow := _follow_labels.after;
  v_column record;
  v_type oid;
begin
  update notika.contract as c
     set type_name = format_type(c.type, c.typmod) -- it may have been renamed
   where c.workflow_id = after.workflow_id
     and c.type >= 16384 and c.type_name <> format_type(c.type, c.typmod)
     and exists (select from pg_type as t where t.oid = c.type);

  for v_column in
    select c.column_name, c.type, c.labels, c.label_ids, n.labels as new_labels, n.label_ids as new_label_ids,
           notika._has_labels(c) as has_labels
      from notika.contract as c
      join pg_attribute as a
        on a.attrelid = after.relation and a.attnum = c.attnum and a.atttypid = c.type
     cross join lateral (
       select notika._labels(a.atttypid), notika._label_ids(a.atttypid)
     ) as n (labels, label_ids)
     where c.workflow_id = after.workflow_id and c.labels is not null
       and (c.labels, c.label_ids) is distinct from (n.labels, n.label_ids)
  loop
    update notika.contract as c
       set labels = v_column.new_labels, label_ids = v_column.new_label_ids
     where c.workflow_id = after.workflow_id and c.column_name = v_column.column_name;
    continue when v_column.has_labels;
    perform notika._record(before, 'followed', 'label_renamed',
                           format('%s.%I', before.table_name, v_column.column_name),
                           notika._statement_of(before.workflow_id, 'label_renamed',
                                                format('%s.%I', before.table_name, v_column.column_name),
                                                statement),
                           v_column.labels::text, v_column.new_labels::text);
    for v_type in
      select l.type
        from notika._leaf_types(v_column.type) as l (type)
        join pg_type as t on t.oid = l.type and t.typtype = 'e'
    loop
      v_after := notika._relabel(v_after, v_type, r.old_labels, r.new_labels)
         from (
           select array_agg(l.label) as old_labels, array_agg(e.enumlabel::text) as new_labels
             from unnest(v_column.labels, v_column.label_ids) as l (label, id)
             join pg_enum as e on e.enumtypid = v_type and e.oid = l.id
            where e.enumlabel <> l.label
         ) as r;
    end loop;
  end loop;
  return v_after;
end;
$$;

comment on function notika._follow_labels(notika.workflow, notika.workflow, text) is
  'Follows the new names of types and of the labels of enums, in the contract of a workflow and in its '
  'condition.';

create or replace function notika._put_back(before notika.workflow, after notika.workflow, may_alter boolean)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_after notika.workflow := _put_back.after;
begin
  if not notika._has_all_it_needs(v_after) then
    if may_alter and not exists (select from notika._missing_to_make(v_after)) then
      perform notika._loosen(before.workflow_id);
    end if;
    return;
  end if;

  v_after.is_pinned := case when may_alter then notika._wants_pins(before.guard)
                            else before.is_pinned end;
  -- Only what is missing: a trigger that somebody disabled stays disabled.  What Notika may not make,
  -- or must not parse, is judged.
  if may_alter and notika._may_make(v_after)
     and (not notika._is_complete(v_after) or v_after.is_pinned <> before.is_pinned
          or notika._form(v_after) <> before.capture
          or notika._listed_shape(before.definition)
             is distinct from case when notika._lists_columns(v_after)
                                   then notika._shape(v_after.relation) end)
  then
    perform notika._bring_into_form(before, v_after);
  elsif not before.is_pinned
        or (v_after.column_names, v_after.watch, v_after.condition)
           is distinct from (before.column_names, before.watch, before.condition)
  then
    -- Postgres has renamed in them what was renamed, but for what is parsed again in each session.
    v_after.is_pinned := before.is_pinned;
    perform notika._renew_capture(before, v_after);
    if v_after.is_pinned then
      update notika.workflow as w
         set definition = notika._definition(v_after)
       where w.workflow_id = before.workflow_id;
    end if;
  end if;
  perform notika._follow_key(v_after);
end;
$$;

comment on function notika._put_back(notika.workflow, notika.workflow, boolean) is
  'Makes the functions and triggers of a workflow that are missing, if what they need is there; '
  'otherwise they capture what is left.';

create or replace function notika._reconcile(
  workflow_id integer,
  statement text,
  settled boolean,
  may_alter boolean default true
)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_spec notika.workflow;
  v_before notika.workflow;
  v_after notika.workflow;
  v_table regclass;
begin
  select w.* into v_spec
    from notika.workflow as w
   where w.workflow_id = _reconcile.workflow_id
     and w.unpublished_at is null and w.table_name is not null; -- without a table DDL is nothing to it
  if not found then
    return;
  end if;
  v_spec := notika._with_names(v_spec);
  v_after := v_spec;

  -- Of tables the name comes first: what has taken the place of one that was dropped or renamed away is
  -- what the workflow is published on from now on.
  v_table := notika._table(v_spec.table_name);
  if v_table is not null and v_table is distinct from v_spec.relation and may_alter
     and (settled or notika._quoted(v_spec.relation) is null)
  then
    v_after.relation := v_table;
    perform notika._record(v_spec, 'healed', 'table_replaced', v_spec.table_name, statement);
    update notika.workflow as w
       set table_name = w.table_name -- finds the relation anew
     where w.workflow_id = v_spec.workflow_id;
    delete from notika.contract_table as c where c.workflow_id = v_spec.workflow_id;
    insert into notika.contract_table (workflow_id, relation)
    select v_spec.workflow_id, t from notika._tables(v_table) as t;
  end if;
  perform notika._rebind(v_spec, v_after.relation, statement);
  v_after := notika._with_columns(v_after);
  perform notika._put_back(v_spec, v_after, may_alter);
  perform notika._settle_capture_rights(v_spec.workflow_id, v_after.relation);
  if not settled or v_spec.on_rename <> 'follow' then
    return;
  end if;

  if not notika._follow_columns(v_spec, v_after, statement) then
    v_after.column_names := v_spec.column_names;
    v_after.watch := v_spec.watch;
    v_after.condition := v_spec.condition;
    v_after.condition_sql := v_spec.condition_sql;
  end if;
  v_after := notika._follow_labels(v_spec, v_after, statement);
  select w.* into v_before from notika.workflow as w where w.workflow_id = v_spec.workflow_id;
  if v_after.condition is distinct from v_spec.condition and not v_before.is_pinned then
    v_after.is_pinned := false;
    perform notika._renew_capture(v_before, v_after); -- it is parsed again in each session
    select w.* into v_before from notika.workflow as w where w.workflow_id = v_spec.workflow_id;
  end if;
  -- In a trigger a string whose type is named is no constant, which would have followed.
  if v_after.condition is distinct from v_spec.condition and notika._names_others(v_after.condition)
     and may_alter and notika._has_all_it_needs(v_after) and notika._may_make(v_after)
  then
    v_after.is_pinned := notika._wants_pins(v_spec.guard);
    perform notika._bring_into_form(v_before, v_after);
  end if;

  -- Without the right to alter, another table that took the name is for somebody to decide about.
  if v_table is null or v_table = v_after.relation then
    v_after.table_name := coalesce(notika._quoted(v_after.relation), v_spec.table_name);
  end if;
  if v_after.table_name <> v_spec.table_name then
    perform notika._record(v_spec, 'followed', 'table_renamed', v_spec.table_name,
                           notika._statement_of(v_spec.workflow_id, 'table_renamed', v_spec.table_name,
                                                statement),
                           v_spec.table_name, v_after.table_name);
  end if;
  update notika.workflow as w
     set table_name = v_after.table_name
   where w.workflow_id = v_spec.workflow_id and w.table_name <> v_after.table_name;
  update notika.workflow as w
     set watch = v_after.watch, condition = v_after.condition, column_names = v_after.column_names,
         condition_sql = v_after.condition_sql, condition_uses = v_after.condition_uses
   where w.workflow_id = v_spec.workflow_id
     and (w.watch, w.condition, w.column_names, w.condition_sql, w.condition_uses)
         is distinct from (v_after.watch, v_after.condition, v_after.column_names,
                           v_after.condition_sql, v_after.condition_uses);
  -- A new partition that has its trigger is part of the contract.
  insert into notika.contract_table (workflow_id, relation)
  select v_spec.workflow_id, t from notika._tables(v_after.relation) as t
   where may_alter
  on conflict do nothing;
end;
$$;

comment on function notika._reconcile(integer, text, boolean, boolean) is
  'Binds what was replaced by something of the same name and type, follows what was renamed, and '
  'puts triggers and functions back where everything they need is there. Not settled: in the '
  'middle of a transaction, when a name that is gone may come back. may_alter: whether to do DDL.';

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

comment on function
  notika._record(notika.workflow, text, text, text, text, text, text) is
  'Writes down in guard_log what the guard saw or did.';

-- It has no primary key, and a publication FOR ALL TABLES would refuse to delete from it.
alter table notika.guard_busy replica identity full;
