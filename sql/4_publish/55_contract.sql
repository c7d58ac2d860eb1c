-- The contract: the columns, types, labels and keys that a workflow depends on, by their numbers.

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
  'Records the key of a workflow''s table, as the catalog has it now.';

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
       -- Postgres has recorded what the condition reads.
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
  'Records what a workflow depends on, as the catalog has it now.';
