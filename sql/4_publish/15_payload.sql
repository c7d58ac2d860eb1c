-- The payload of an event: a function for each workflow, with dependencies by which Postgres
-- itself keeps it consistent with the table.

create or replace function notika._pick(changed anyelement, relation regclass, columns smallint[])
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
  v_picked json;
  v_object text;
begin
  select notika._value_expression(
           array_agg(a.attname::text order by a.place, a.attnum),
           array_agg(format('($1).%I', a.attname) order by a.place, a.attnum)
         )
    into v_object
    from (
      select t.*, array_position(_pick.columns, t.attnum) as place
        from pg_attribute as t
       where t.attrelid = _pick.relation and t.attnum > 0 and not t.attisdropped
    ) as a
   where _pick.columns is null or a.place is not null;

  execute format('select %s', v_object)
    into v_picked
    using _pick.changed;
  return v_picked;
end;
$$;

comment on function notika._pick(anyelement, regclass, smallint[]) is
  'Some columns of a row as json, or all of them; slow, and correct for any values.';

create or replace function notika._key_expression(
  path text,
  relation regclass,
  also text[] default '{}'
)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format(
           'notika._json_object(%L::pg_catalog.text[], array[%s])',
           array_agg(a.attname order by array_position(k.columns, a.attnum), a.attnum),
           string_agg(format('notika._settled_json(%s.%I)', _key_expression.path, a.attname), ', '
                      order by array_position(k.columns, a.attnum), a.attnum)
         )
    from (
      select coalesce(notika._key_columns(_key_expression.relation), '{}')
    ) as k (columns)
    join pg_attribute as a
      on a.attrelid = _key_expression.relation and a.attnum > 0 and not a.attisdropped
     and (a.attnum = any (k.columns) or a.attname = any (_key_expression.also))
   having count(a.attnum) > 0;
$$;

comment on function notika._key_expression(text, regclass, text[]) is
  'An SQL expression for the json that _key makes of a row, from its columns one by one and '
  'whatever their types are when it is parsed; null if the table has no key.';

create or replace function notika._key(
  changed anyelement,
  relation regclass,
  also text[] default '{}'
)
  returns json
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select notika._pick(_key.changed, _key.relation, k.columns || array(
           select a.attnum
             from pg_attribute as a
            where a.attrelid = _key.relation and a.attname = any (_key.also)
              and a.attnum > 0 and not a.attisdropped and a.attnum <> all (k.columns)
         ))
    from (select coalesce(notika._key_columns(_key.relation), '{}')) as k (columns);
$$;

comment on function notika._key(anyelement, regclass, text[]) is
  'The key columns of a row, and those that waits compare, as json: what remains of a row that is '
  'too large for an event.';

create or replace function notika._whole_row(changed anyelement, relation regclass)
  returns json
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_row json;
begin
  -- Looked up for each row, so that it is correct after any DDL. to_json would call a cast that
  -- the owner of a type wrote; a snapshot older than the lock of the trigger may not show it.
  if current_setting('transaction_isolation') <> 'read committed' or exists (
    select from pg_attribute as a
     where a.attrelid = _whole_row.relation and a.attnum > 0 and not a.attisdropped
       and a.atttypid >= 16384
  ) then
    return notika._pick(_whole_row.changed, _whole_row.relation, null);
  end if;

  v_row := to_json(_whole_row.changed);
  -- json columns may contain escapes that Postgres keeps but refuses to read.
  if strpos(v_row::text, E'\\u') > 0 and v_row::text ~* E'\\\\u(0000|d[89a-f])' then
    return notika._pick(_whole_row.changed, _whole_row.relation, null);
  end if;

  return (
    select coalesce(
             json_object_agg(
               f.key,
               case
                 when a.atttypid in ('int8'::regtype, 'numeric'::regtype)
                   then to_json(f.value #>> '{}')
                 when a.atttypid is not null -- an array: its strings, such as "NaN", have no digits
                   then regexp_replace(f.value::text, '(-?[0-9][0-9.]*)', E'"\\1"', 'g')::json
                 else f.value
               end
               order by f.place
             ),
             '{}'
           )
      from json_each(v_row) with ordinality as f (key, value, place)
      left join pg_attribute as a
        on a.attrelid = _whole_row.relation and a.attname = f.key
       and a.atttypid in ('int8'::regtype, 'numeric'::regtype, 'int8[]'::regtype,
                          'numeric[]'::regtype)
  );
end;
$$;

comment on function notika._whole_row(anyelement, regclass) is
  'A whole row as json, with its int8 and numeric numbers as strings.';

create or replace function notika._expect_columns(relation regclass, names text[])
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_column text;
begin
  select k.name into v_column
    from unnest(_expect_columns.names) as k (name)
   where not exists (
     select from pg_attribute as a
      where a.attrelid = _expect_columns.relation
        and a.attname = k.name and a.attnum > 0 and not a.attisdropped
   );
  if found then
    raise exception 'column "%" of table % does not exist any more',
      v_column, notika._quoted(_expect_columns.relation)
      using errcode = 'undefined_column',
            detail = 'It was dropped or renamed after the workflow was published.',
            hint = 'Publish the workflow again with the columns that the table has now.';
  end if;
end;
$$;

comment on function notika._expect_columns(regclass, text[]) is
  'Refuses to generate code that would silently leave out a published column.';

create or replace function notika._payload_definition(
  workflow_id integer,
  relation regclass,
  columns text[],
  column_names text[]
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_object text;
  v_size text;
begin
  perform notika._expect_columns(
    _payload_definition.relation, _payload_definition.column_names);

  select notika._object_expression(
           array_agg(k.key order by k.place),
           array_agg(format('(r).%I', k.name) order by k.place),
           array_agg(a.atttypid order by k.place),
           true
         ),
         string_agg(
           notika._size_expression(format('(r).%I', k.name), a.atttypid, a.atttypmod, true),
           ' + ' order by k.place
         )
    into v_object, v_size
    from unnest(_payload_definition.columns, _payload_definition.column_names)
           with ordinality as k (key, name, place)
    join pg_attribute as a
      on a.attrelid = _payload_definition.relation and a.attname = k.name;

  return format(
    E'create or replace function notika.payload_%s(r %s)\n'
    '  returns pg_catalog.json\n'
    '  language sql\n'
    '  stable\n'
    'begin atomic\n'
    '  select %s;\n'
    'end',
    _payload_definition.workflow_id,
    notika._quoted(_payload_definition.relation),
    case
      when v_size is null then v_object
      -- The sum of a few large values exceeds an integer.
      else format('case when 0::pg_catalog.int8 + %s <= %s then %s end',
                  v_size, (select s.payload_bytes from notika.setting as s), v_object)
    end
  );
end;
$$;

comment on function notika._payload_definition(integer, regclass, text[], text[]) is
  'The statement that creates the payload function: begin atomic, so that Postgres records what '
  'the function reads, refuses to drop it and follows renames. The function returns null for a '
  'row that is too large.';

create or replace function notika._payload_function(workflow_id integer, relation oid)
  returns regprocedure
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
    -- Not by its name: that requires rights on the schema of the table.
  return (
    select p.oid::regprocedure
      from pg_proc as p
      join pg_type as t on t.oid = p.proargtypes[0]
     where p.pronamespace = 'notika'::regnamespace
       and p.proname = format('payload_%s', _payload_function.workflow_id)
       and t.typrelid = _payload_function.relation
  );
end;
$$;

comment on function notika._payload_function(integer, oid) is
  'The function that makes the payload of a workflow from the rows of a table.';
