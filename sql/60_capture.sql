-- What an event carries of a row, as json: a payload function for each workflow that Postgres itself
-- keeps in step with the table.
-- Values are turned into json by Postgres' own functions only: the trigger function runs with the
-- owner's rights, and a cast that the owner of a type wrote must not.
-- What runs at a write is parsed in the writer's session: a backslash is only safe in E''.

create or replace function notika._base_type(type oid)
  returns oid
  language plpgsql
  stable
  strict
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_base oid;
begin
  loop
    select t.typbasetype into v_base from pg_type as t where t.oid = _base_type.type;
    if not found then
      return null;
    end if;
    exit when v_base = 0;
    type := v_base;
  end loop;
  return _base_type.type;
end;
$$;

comment on function notika._base_type(oid) is 'The type under a domain, or the type itself.';

create or replace function notika._leaf_types(type oid)
  returns setof oid
  language plpgsql
  stable
  strict
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Most have no parts.
  if exists (
    select from pg_type as t
     where t.oid = _leaf_types.type and t.typtype in ('b', 'e', 'r', 'm') and t.typcategory <> 'A'
  ) then
    return next _leaf_types.type;
    return;
  end if;
  return query
    with recursive part as (
      select notika._base_type(_leaf_types.type) as oid
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
    select p.oid
      from part as p
      join pg_type as t on t.oid = p.oid
     where t.typcategory <> 'A' and t.typtype <> 'c';
end;
$$;

comment on function notika._leaf_types(oid) is
  'The types of the single values in a type, through arrays, composites and domains.';

create or replace function notika._settings(types oid[])
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set plan_cache_mode = force_generic_plan -- to plan takes longer than to run
as $$
declare
  v_plain oid[] :=
    '{bool,int2,int4,int8,numeric,text,varchar,bpchar,name,uuid,json,jsonb,xml,date,time,timetz,
      timestamp,inet,cidr,macaddr,macaddr8,bit,varbit,oid,tsvector}'::regtype[];
begin
  if types <@ v_plain then
    return ''; -- as nearly always, and the guard waits for it
  end if;

  -- Each setting costs every row a little, so only those that the types need; a type that is not
  -- listed may hold any of the others.
  return (
    with dependent (type, setting) as (
      values ('timestamptz'::regtype, 'timezone = ''UTC'''),
             (null, 'datestyle = ''ISO, YMD'''),
             ('interval', 'intervalstyle = ''iso_8601'''),
             ('bytea', 'bytea_output = ''hex'''),
             ('float4', 'extra_float_digits = ''1'''),
             ('float8', 'extra_float_digits = ''1'''),
             ('money', 'lc_monetary = ''C'''),
             (null, 'quote_all_identifiers = off')
    ), leaf (type) as (
      select distinct l.type
        from unnest(_settings.types) as given (type)
       cross join lateral notika._leaf_types(given.type) as l (type)
        join pg_type as t on t.oid = l.type and t.typtype <> 'e'
    )
    select coalesce(string_agg(distinct format(E'\n  set %s', d.setting), ''), '')
      from leaf as l
      join dependent as d
        on d.type = l.type
        or l.type <> all (v_plain)
       and l.type not in (select k.type from dependent as k where k.type is not null)
  );
end;
$$;

comment on function notika._settings(oid[]) is
  'The SET clauses under which values of these types look the same in every session.';

create or replace function notika._fold(elements json[], shape anyarray)
  returns json
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_parts text[] := array(
    select coalesce(e.value::text, 'null')
      from unnest(elements) with ordinality as e (value, place)
     order by e.place
  );
begin
  -- The innermost dimension first; what remains at the end is one array.
  for v_dimension in reverse coalesce(array_ndims(shape), 0)..1 loop
    v_parts := array(
      select format('[%s]', string_agg(p.part, ', ' order by p.place))
        from unnest(v_parts) with ordinality as p (part, place)
       group by (p.place - 1) / array_length(shape, v_dimension)
       order by (p.place - 1) / array_length(shape, v_dimension)
    );
  end loop;
  return coalesce(v_parts[1], '[]')::json;
end;
$$;

comment on function notika._fold(json[], anyarray) is
  'The elements of an array as a json array that is nested as deep as the array is.';

create or replace function notika._has_json_cast(type oid)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Only a superuser makes functions in C; anybody else's would run with the owner's rights.
  select exists (
    select from pg_cast as c
      join pg_proc as p on p.oid = c.castfunc
      join pg_language as l on l.oid = p.prolang and l.lanname in ('c', 'internal')
     where c.castsource = _has_json_cast.type and c.casttarget = 'json'::regtype
       and has_function_privilege(p.oid, 'execute')
  );
$$;

comment on function notika._has_json_cast(oid) is
  'Whether an extension says how values of its type look as json.';

create or replace function notika._json_expression(path text, type oid, depth integer default 0)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_base pg_type;
  v_array text := format('a%s', _json_expression.depth);
  v_index text := format('i%s', _json_expression.depth);
begin
  select t.* into v_base from pg_type as t where t.oid = notika._base_type(_json_expression.type);

  -- JavaScript would round them.
  if v_base.oid in ('int8'::regtype, 'numeric'::regtype) then
    return format('%s::pg_catalog.text', path);
  end if;
  if v_base.oid in ('int8[]'::regtype, 'numeric[]'::regtype) then
    return format('%s::pg_catalog.text[]', path);
  end if;

  if v_base.typcategory = 'A' and v_base.typelem >= 16384 then
    -- Postgres would call the casts of the elements' type.
    return format(
      'case when %1$s is not null then notika._fold(array(select pg_catalog.to_json(%2$s)'
      ' from (select array(select pg_catalog.unnest(%1$s))) as %3$s (elements),'
      ' pg_catalog.generate_subscripts(%3$s.elements, 1) as %4$s order by %4$s), %1$s) end',
      path,
      notika._json_expression(format('(%s.elements[%s])', v_array, v_index), v_base.typelem,
                              depth + 1),
      v_array,
      v_index
    );
  end if;
  if v_base.oid < 16384 then
    return path;
  end if;

  if v_base.typtype = 'c' then
    return (
      select format(
               'case when pg_catalog.num_nonnulls(%s) operator(pg_catalog.=) 1 then %s end',
               path,
               notika._object_expression(
                 array_agg(a.attname::text order by a.attnum),
                 array_agg(format('(%s).%I', path, a.attname) order by a.attnum),
                 array_agg(a.atttypid order by a.attnum),
                 depth
               )
             )
        from pg_attribute as a
       where a.attrelid = v_base.typrelid and a.attnum > 0 and not a.attisdropped
    );
  end if;

  if notika._has_json_cast(v_base.oid) then
    return format('%s::pg_catalog.json', path);
  end if;
  return format('case when %1$s is not null then pg_catalog.format(''%%s'', %1$s) end', path);
end;
$$;

comment on function notika._json_expression(text, oid, integer) is
  'An SQL expression for a value of this type as an argument of json_build_object.';

create or replace function notika._is_string(type oid)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select t.oid in ('text'::regtype, 'varchar'::regtype, 'uuid'::regtype,
                   'int8'::regtype, 'numeric'::regtype)
      or t.oid >= 16384 and t.typtype <> 'c' and t.typcategory <> 'A'
         and not notika._has_json_cast(t.oid)
    from pg_type as t
   where t.oid = notika._base_type(_is_string.type);
$$;

comment on function notika._is_string(oid) is
  'Whether json has a string for each value of this type, and it is the value as text.';

create or replace function notika._object_expression(
  names text[],
  paths text[],
  types oid[],
  depth integer default 0
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select case
             -- Where all are strings Postgres need not look up what they are, which is half of the
             -- price.
             when bool_and(notika._is_string(v.type)) then format(
               'pg_catalog.json_object(%L::pg_catalog.text[], array[%s])',
               _object_expression.names,
               string_agg(
                 case when notika._base_type(v.type) >= 16384 then v.expression
                      else format('%s::pg_catalog.text', v.path) end, ', ' order by v.place)
             )
             when count(*) <= 50 then format(
               'pg_catalog.json_build_object(%s)',
               string_agg(format('%L, %s', v.name, v.expression), ', ' order by v.place)
             )
             -- A function has at most a hundred arguments.
             else format(
               '(select pg_catalog.row_to_json(o) from (select %s) as o)',
               string_agg(format('%s as %I', v.expression, v.name), ', ' order by v.place)
             )
           end
      from (
        select u.*, notika._json_expression(u.path, u.type, _object_expression.depth) as expression
          from unnest(_object_expression.names, _object_expression.paths, _object_expression.types)
                 with ordinality as u (name, path, type, place)
      ) as v
  );
end;
$$;

comment on function notika._object_expression(text[], text[], oid[], integer) is
  'An SQL expression for a json object of these keys, with the values that are at these paths.';

create or replace function notika._size_expression(path text, type oid, typmod integer)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case
           when t.typlen <> -1 or t.oid = 'numeric'::regtype then null
           when t.oid in ('varchar'::regtype, 'bpchar'::regtype)
            and _size_expression.typmod between 0 and 1024 then null
           -- The size before compression, told without reading the value.
           when t.oid in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'bytea'::regtype)
             then format('coalesce(pg_catalog.octet_length(%s), 0)', _size_expression.path)
           else format('coalesce(pg_catalog.pg_column_size(%s), 0)', _size_expression.path)
         end
    from pg_type as t
   where t.oid = notika._base_type(_size_expression.type);
$$;

comment on function notika._size_expression(text, oid, integer) is
  'An SQL expression for the size of a value in bytes; null for a type that is always small.';

create or replace function notika._key_columns(relation regclass)
  returns smallint[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array(
           select k.attnum
             from unnest(i.indkey) with ordinality as k (attnum, place)
            where k.place <= i.indnkeyatts -- the others are included columns
            order by k.place
         )
    from pg_index as i
   where i.indrelid = _key_columns.relation and (i.indisprimary or i.indisreplident)
   order by i.indisprimary desc
   limit 1;
$$;

comment on function notika._key_columns(regclass) is
  'The columns of the primary key, or else of the replica identity; null: there is neither.';

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
  select notika._object_expression(
           array_agg(a.attname::text order by a.place, a.attnum),
           array_agg(format('($1).%I', a.attname) order by a.place, a.attnum),
           array_agg(a.atttypid order by a.place, a.attnum)
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
  'Some columns of a row as json, or all: slow, and right whatever they hold.';

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
  select notika._object_expression(
           array_agg(a.attname::text order by array_position(k.columns, a.attnum), a.attnum),
           array_agg(format('%s.%I', _key_expression.path, a.attname)
                     order by array_position(k.columns, a.attnum), a.attnum),
           array_agg(a.atttypid order by array_position(k.columns, a.attnum), a.attnum)
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
  'An SQL expression for the json that _key makes of a row, from its columns one by one; null: it has '
  'no key.';

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
  'The key columns of a row as json, and what waits compare: what is left of a row that is too big '
  'for an event.';

create or replace function notika._whole_row(changed anyelement, relation regclass)
  returns json
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_row json;
begin
  -- Looked up for each row, so that it is right after any DDL.
  if exists (
    select from pg_attribute as a
      join pg_type as t on t.oid = a.atttypid
      left join pg_type as e on e.oid = t.typelem and t.typcategory = 'A'
     where a.attrelid = _whole_row.relation and a.attnum > 0 and not a.attisdropped
       and a.atttypid >= 16384
       and (
         -- These may have int8 and numeric in them.
         coalesce(e.typtype, t.typtype) in ('c', 'd')
         -- to_json would call a cast that somebody wrote, with the owner's rights.
         or exists (
           select from pg_cast as c
            where c.castsource = coalesce(e.oid, t.oid) and c.casttarget = 'json'::regtype
         ) and not notika._has_json_cast(coalesce(e.oid, t.oid))
       )
  ) then
    return notika._pick(_whole_row.changed, _whole_row.relation, null);
  end if;

  v_row := to_json(_whole_row.changed);
  -- json columns may hold escapes that Postgres keeps but refuses to read.
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
  'A whole row as json, its int8 and numeric numbers as strings.';

create or replace function notika._quoted(relation regclass)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
begin
  return (
    select format('%I.%I', n.nspname, c.relname)
      from pg_class as c
      join pg_namespace as n on n.oid = c.relnamespace
     where c.oid = _quoted.relation
  );
end;
$$;

comment on function notika._quoted(regclass) is 'The name of a table with its schema.';

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
    raise exception 'column "%" of table % is not there any more',
      v_column, notika._quoted(_expect_columns.relation)
      using errcode = 'undefined_column',
            detail = 'It was dropped or renamed since the workflow was published.',
            hint = 'Publish the workflow again with the columns that the table has now.';
  end if;
end;
$$;

comment on function notika._expect_columns(regclass, text[]) is
  'Refuses to generate code that would leave out a published column in silence.';

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
           array_agg(a.atttypid order by k.place)
         ),
         string_agg(
           notika._size_expression(format('(r).%I', k.name), a.atttypid, a.atttypmod),
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
      -- A few big values are more than an integer holds.
      else format('case when 0::pg_catalog.int8 + %s <= %s then %s end',
                  v_size, (select s.payload_bytes from notika.setting as s), v_object)
    end
  );
end;
$$;

comment on function notika._payload_definition(integer, regclass, text[], text[]) is
  'The statement that makes the payload function: begin atomic, so that Postgres records what it '
  'reads, refuses to drop it and follows renames. It gives null for a row that is too big.';
