-- The values of a row in an event, as json. The json that is made with the owner's rights has
-- columns of types that belong to other roles, now or later: a cast of such a column, an implicit
-- one included, and to_json too, call a function of the type's owner. So no column is ever cast.
-- Output functions are safe for any type, and so is a call that accepts any type. Expressions that
-- are parsed once, when a function is created, are examined afterwards (_check_payload_code);
-- expressions that are parsed again later name the types that they accept (_exactly). Code that
-- runs at a write is parsed in the writer's session: a backslash is safe only in E''.

create or replace function notika._settings(types oid[])
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set plan_cache_mode = force_generic_plan -- planning takes longer than execution
as $$
declare
  v_plain oid[] :=
    '{bool,int2,int4,int8,numeric,text,varchar,bpchar,name,uuid,json,jsonb,xml,date,time,timetz,
      timestamp,inet,cidr,macaddr,macaddr8,bit,varbit,oid,tsvector}'::regtype[];
begin
  if types <@ v_plain then
    return ''; -- the usual case, for which the guard waits
  end if;

  -- Each setting costs every row a little, so only those that the types need are set. A type that
  -- is not listed may contain any of the others.
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
  'The elements of an array as a json array with as many dimensions as the array.';

create or replace function notika._json_cast(type oid)
  returns regprocedure
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- A function of an extension: written in C, which requires a superuser, and the type is equally
  -- protected, so no other role can replace the cast.
  return (
    select p.oid::regprocedure
      from pg_cast as c
      join pg_proc as p on p.oid = c.castfunc and p.pronargs = 1
      join pg_language as l on l.oid = p.prolang and l.lanname = 'c'
      join pg_roles as o on o.oid = p.proowner and o.rolsuper
      join pg_type as t on t.oid = c.castsource
      join pg_roles as w on w.oid = t.typowner and w.rolsuper
     where c.castsource = _json_cast.type and c.casttarget = 'json'::regtype
       and has_function_privilege(p.oid, 'execute')
  );
end;
$$;

comment on function notika._json_cast(oid) is
  'The function of an extension that turns values of its type into json; null if there is none.';

create or replace function notika._exactly(value anyelement, example anyelement)
  returns anyelement
  language sql
  immutable
as 'select $1';

comment on function notika._exactly(anyelement, anyelement) is
  'The value, which must have the type of the example: with any other type the call is an error '
  'when it is parsed. It has no settings, so that Postgres inlines it.';

create or replace function notika._json_object(names text[], elements json[])
  returns json
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select format('{%s}', string_agg(
           format('%s : %s', to_json(e.name), coalesce(e.value::text, 'null')), ', ' order by e.place
         ))::json
    from unnest(_json_object.names, _json_object.elements) with ordinality as e (name, value, place);
$$;

comment on function notika._json_object(text[], json[]) is 'A json object of these keys and values.';

create or replace function notika._json_value(value anyelement)
  returns json
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_plain constant regtype[] :=
    '{text,varchar,int4,bool,timestamptz,uuid,jsonb,json,date}'::regtype[];
  v_type pg_type;
  v_statement text;
  v_json json;
begin
  -- Each statement is parsed when it is reached, with the type that the value has.
  if num_nulls(value) = 1 then
    return null;
  elsif pg_typeof(value) = any (v_plain) then
    return to_json(value);
  end if;
  select t.* into v_type from pg_type as t where t.oid = notika._base_type(pg_typeof(value));

  if v_type.oid < 16384
     and v_type.oid not in ('int8'::regtype, 'numeric'::regtype, 'int8[]'::regtype, 'numeric[]'::regtype)
  then
    return to_json(value);
  elsif v_type.typcategory = 'A' or v_type.typtype = 'c' then
    select case v_type.typcategory
             when 'A' then
               'select notika._fold(array(select notika._json_value(u.element) '
               'from (select unnest($1) as element) as u), $1)'
             else format(
               'select notika._json_object(%L, array[%s]::json[])',
               array_agg(a.attname order by a.attnum),
               string_agg(format('notika._json_value(($1).%I)', a.attname), ', ' order by a.attnum))
           end
      into v_statement
      from pg_attribute as a
     where a.attrelid = v_type.typrelid and a.attnum > 0 and not a.attisdropped;
    execute v_statement into v_json using value;
    return v_json;
  elsif notika._json_cast(v_type.oid) is not null then
    return to_json(value);
  end if;
  -- JavaScript would round int8 and numeric. Other types are known to Postgres as text only,
  -- including a type that was created after the snapshot of the transaction.
  return to_json(format('%s', value));
end;
$$;

comment on function notika._json_value(anyelement) is
  'A value of any type as json; slower than the expressions for a known type.';

create or replace function notika._settled_json(value anyelement)
  returns json
  language sql
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
  select notika._json_value(_settled_json.value);
$$;

comment on function notika._settled_json(anyelement) is
  'A value of any type as json that looks the same in every session.';

create or replace function notika._json_expression(
  path text,
  type oid,
  is_exact boolean,
  depth integer default 0
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_base pg_type;
  v_path text := _json_expression.path;
  v_array text := format('a%s', _json_expression.depth);
  v_index text := format('i%s', _json_expression.depth);
begin
  select t.* into v_base from pg_type as t where t.oid = notika._base_type(_json_expression.type);

  if v_base.oid < 16384 and (is_exact or v_base.oid = _json_expression.type) then
    if not is_exact then
      v_path := notika._exact_path(path, v_base);
    end if;
    return case
      -- JavaScript would round them.
      when v_base.oid in ('int8'::regtype, 'numeric'::regtype) then notika._text_path(v_path, v_base)
      when v_base.oid in ('int8[]'::regtype, 'numeric[]'::regtype)
        then format('pg_catalog.array_in(pg_catalog.array_out(%s), %s, -1)', v_path,
                    'text'::regtype::oid)
      else v_path
    end;
  end if;

  if notika._is_string(v_base.oid) then
    return format('case when %1$s is not null then pg_catalog.format(''%%s'', %1$s) end', path);
  end if;
  if not is_exact or v_base.oid is null
     or v_base.typcategory = 'A' and (
       select e.typcategory = 'A' from pg_type as e where e.oid = notika._base_type(v_base.typelem)
     )
  then
    return format('notika._settled_json(%s)', path);
  end if;

  if v_base.typcategory = 'A' then
    -- Postgres would call the casts of the elements' type.
    return format(
      'case when %1$s is not null then notika._fold(array(select pg_catalog.to_json(%2$s)'
      ' from (select array(select pg_catalog.unnest(%1$s))) as %3$s (elements),'
      ' pg_catalog.generate_subscripts(%3$s.elements, 1) as %4$s order by %4$s), %1$s) end',
      path,
      notika._json_expression(format('(%s.elements[%s])', v_array, v_index), v_base.typelem, true,
                              depth + 1),
      v_array,
      v_index
    );
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
                 true,
                 depth
               )
             )
        from pg_attribute as a
       where a.attrelid = v_base.typrelid and a.attnum > 0 and not a.attisdropped
    );
  end if;
  return (
    select format('%I.%I(%s)', n.nspname, p.proname, path)
      from pg_proc as p
      join pg_namespace as n on n.oid = p.pronamespace
     where p.oid = notika._json_cast(v_base.oid)
  );
end;
$$;

comment on function notika._json_expression(text, oid, boolean, integer) is
  'An SQL expression for a value of this type, as an argument of json_build_object. If exact, it '
  'is parsed once, now, and examined then; otherwise it is safe whatever the type is later.';

create or replace function notika._exact_path(path text, type pg_type)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return format('notika._exactly(%s, null::pg_catalog.%I)', path, type.typname);
end;
$$;

comment on function notika._exact_path(text, pg_type) is
  'An SQL expression for a value that is an error if the value is not of this type, which is one '
  'of Postgres'' own.';

create or replace function notika._text_path(path text, type pg_type)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return case
    when type.oid in ('text'::regtype, 'varchar'::regtype) then path
    else (
      select format('pg_catalog.textin(pg_catalog.%I(%s))', p.proname, path)
        from pg_proc as p
       where p.oid = type.typoutput
    )
  end;
end;
$$;

comment on function notika._text_path(text, pg_type) is
  'An SQL expression for a value of this type, one of Postgres'' own, as text: without a cast, '
  'and as fast as one.';

create or replace function notika._is_string(type oid)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select t.oid in ('text'::regtype, 'varchar'::regtype, 'uuid'::regtype,
                     'int8'::regtype, 'numeric'::regtype)
        or t.oid >= 16384 and t.typtype <> 'c' and t.typcategory <> 'A'
           and notika._json_cast(t.oid) is null
      from pg_type as t
     where t.oid = notika._base_type(_is_string.type)
  );
end;
$$;

comment on function notika._is_string(oid) is
  'Whether each value of this type is a string in json, which is the value as text.';

create or replace function notika._object_expression(
  names text[],
  paths text[],
  types oid[],
  is_exact boolean,
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
             -- If all values are strings, Postgres need not look up their types, which takes half
             -- of the time.
             when bool_and(coalesce(notika._is_string(v.type), false)) then format(
               'pg_catalog.json_object(%L::pg_catalog.text[], array[%s])',
               _object_expression.names,
               string_agg(coalesce(v.string, v.expression), ', ' order by v.place)
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
        select u.*,
               notika._json_expression(u.path, u.type, _object_expression.is_exact,
                                       _object_expression.depth) as expression,
               case
                 when b.oid >= 16384 then null
                 when _object_expression.is_exact then notika._text_path(u.path, b)
                 when b.oid = u.type then notika._text_path(notika._exact_path(u.path, b), b)
               end as string
          from unnest(_object_expression.names, _object_expression.paths, _object_expression.types)
                 with ordinality as u (name, path, type, place)
          left join pg_type as b on b.oid = notika._base_type(u.type)
      ) as v
  );
end;
$$;

comment on function notika._object_expression(
  text[], text[], oid[], boolean, integer
) is
  'An SQL expression for a json object with these keys and the values at these paths. Exact: see '
  '_json_expression.';

create or replace function notika._value_expression(names text[], paths text[])
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select format('notika._json_object(%L::text[], array[%s]::json[])', names,
                string_agg(format('notika._json_value(%s)', p.path), ', ' order by p.place))
    from unnest(paths) with ordinality as p (path, place);
$$;

comment on function notika._value_expression(text[], text[]) is
  'An SQL expression for a json object with these keys and the values at these paths, whatever '
  'their types are when it is executed: the catalog in a snapshot may be older.';

create or replace function notika._size_expression(
  path text,
  type oid,
  typmod integer,
  is_exact boolean
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select case
             when t.typlen <> -1 or t.oid = 'numeric'::regtype then null
             when t.oid in ('varchar'::regtype, 'bpchar'::regtype)
              and _size_expression.typmod between 0 and 1024 then null
             -- The size before compression, which is known without reading the value.
             when t.oid in ('text'::regtype, 'varchar'::regtype, 'bpchar'::regtype, 'bytea'::regtype)
              and (_size_expression.is_exact or t.oid = _size_expression.type)
               then format('coalesce(pg_catalog.octet_length(%s), 0)',
                           case when is_exact then _size_expression.path
                                else notika._exact_path(_size_expression.path, t) end)
             else format('coalesce(pg_catalog.pg_column_size(%s), 0)', _size_expression.path)
           end
      from pg_type as t
     where t.oid = notika._base_type(_size_expression.type)
  );
end;
$$;

comment on function notika._size_expression(text, oid, integer, boolean) is
  'An SQL expression for the size of a value in bytes; null for a type that is always small. '
  'Exact: see _json_expression.';
