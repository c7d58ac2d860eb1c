-- Audit-style trigger, after supa_audit: old and new as jsonb, and a uuid that is made from the table and the primary
-- key, which is looked up in the catalog for each row.
-- Left out: truncate, and enabling and disabling. The uuid is an md5 instead of a version 5.
create schema audit;

create type audit.operation as enum ('INSERT', 'UPDATE', 'DELETE');
create table audit.record_version (
  id bigint generated always as identity primary key,
  record_id uuid,
  old_record_id uuid,
  op audit.operation not null,
  ts timestamptz not null default now(),
  table_oid oid not null,
  table_schema name not null,
  table_name name not null,
  record jsonb,
  old_record jsonb,
  check (coalesce(record_id, old_record_id) is not null or op = 'INSERT'),
  check ((op in ('INSERT', 'UPDATE')) = (record is not null)),
  check ((op in ('UPDATE', 'DELETE')) = (old_record is not null))
);
create index on audit.record_version (record_id) where record_id is not null;
create index on audit.record_version (old_record_id) where old_record_id is not null;
create index on audit.record_version using brin (ts);
create index on audit.record_version (table_oid);

create function audit.primary_key_columns(table_oid oid)
  returns text[]
  language sql
  stable
  security definer
  set search_path = ''
as $$
  select coalesce(array_agg(a.attname::text order by a.attnum), '{}')
    from pg_catalog.pg_index as i
    join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid and a.attnum = any (i.indkey)
   where i.indrelid = table_oid and i.indisprimary;
$$;

create function audit.to_record_id(table_oid oid, key_columns text[], record jsonb)
  returns uuid
  language sql
  stable
as $$
  select case
           when record is null then null
           when key_columns = '{}' then gen_random_uuid()
           else md5((
             select (jsonb_build_array(to_jsonb(table_oid)) || jsonb_agg(record ->> k.name))::text
               from unnest(key_columns) as k (name)
           ))::uuid
         end;
$$;

create function audit.capture() returns trigger language plpgsql security definer set search_path = '' as $$
declare
  v_key text[] := audit.primary_key_columns(tg_relid);
  v_record jsonb := case when tg_op <> 'DELETE' then pg_catalog.to_jsonb(new) end;
  v_old_record jsonb := case when tg_op <> 'INSERT' then pg_catalog.to_jsonb(old) end;
begin
  insert into audit.record_version
    (record_id, old_record_id, op, table_oid, table_schema, table_name, record, old_record)
  select audit.to_record_id(tg_relid, v_key, v_record), audit.to_record_id(tg_relid, v_key, v_old_record),
         tg_op::audit.operation, tg_relid, tg_table_schema, tg_table_name, v_record, v_old_record;
  return coalesce(new, old);
end;
$$;
