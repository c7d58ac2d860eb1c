-- What really happened: plain triggers that write each change of a row into a table.
create schema shadow;

create table shadow.change (
  change_id bigint generated always as identity primary key,
  table_name text not null,
  operation text not null,
  types jsonb not null,
  old jsonb,
  new jsonb
);
create index on shadow.change (table_name, change_id);

create table shadow.run (
  event_id bigint not null,
  workflow text not null,
  operation text not null,
  old text,
  new text
);

create function shadow.record() returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
  set datestyle = 'ISO'
  set intervalstyle = 'iso_8601'
  set bytea_output = 'hex'
  set extra_float_digits = 1
as $$
begin
  insert into shadow.change (table_name, operation, types, old, new)
  select format('%I.%I', tg_table_schema, tg_table_name), lower(tg_op),
         (select jsonb_object_agg(a.attname, a.atttypid::regtype)
            from pg_attribute as a
           where a.attrelid = tg_relid and a.attnum > 0 and not a.attisdropped),
         case when tg_op <> 'INSERT' then to_jsonb(old) end,
         case when tg_op <> 'DELETE' then to_jsonb(new) end;
  return null;
end
$$;

-- What an event says of a row: bigint and numeric as strings.
create function shadow.carried(r jsonb, types jsonb, columns text[]) returns jsonb
  language sql
  immutable
as $$
  select jsonb_object_agg(c.key,
           case when types ->> c.key in ('bigint', 'numeric', 'oid', 'money') then coalesce(to_jsonb(c.value #>> '{}'), 'null')
                else c.value end)
    from jsonb_each(r) as c
   where columns is null or c.key = any (columns)
$$;
