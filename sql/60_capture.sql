-- What publish generates for a workflow: a payload function that Postgres itself keeps in step with
-- the table, one trigger function, and a trigger an operation with the filter as its WHEN.
-- Values are turned into json by Postgres' own functions only: the trigger function runs with the
-- owner's rights, and a cast that the owner of a type wrote must not.

create or replace function notika._base_type(type oid)
  returns oid
  language sql
  stable
  strict
  set search_path = pg_catalog, pg_temp
as $$
  with recursive chain as (
    select t.oid, t.typbasetype from pg_type as t where t.oid = _base_type.type
    union all
    select t.oid, t.typbasetype
      from chain as c
      join pg_type as t on t.oid = c.typbasetype
  )
  select c.oid from chain as c where c.typbasetype = 0;
$$;

comment on function notika._base_type(oid) is 'The type under a domain, or the type itself.';

create or replace function notika._leaf_types(type oid)
  returns setof oid
  language sql
  stable
  strict
  set search_path = pg_catalog, pg_temp
as $$
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
$$;

comment on function notika._leaf_types(oid) is
  'The types of the single values in a type, through arrays, composites and domains.';

create or replace function notika._settings(types oid[])
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Each setting costs every row a little, so only those that the types need.
  select case max(
           case
             when t.typtype = 'e' then 0
             when l.type = any (
               '{bool,int2,int4,int8,numeric,text,varchar,bpchar,name,uuid,json,jsonb,xml,date,
                 time,timetz,timestamp,inet,cidr,macaddr,macaddr8,bit,varbit,oid}'::regtype[]
             ) then 0
             when l.type = 'timestamptz'::regtype then 1
             else 2
           end
         )
           when 2 then E'\n  set timezone = ''UTC''\n  set datestyle = ''ISO, YMD'''
             || E'\n  set intervalstyle = ''iso_8601''\n  set bytea_output = ''hex'''
             || E'\n  set extra_float_digits = ''1''\n  set lc_monetary = ''C'''
           when 1 then E'\n  set timezone = ''UTC'''
           else ''
         end
    from unnest(_settings.types) as given (type)
   cross join lateral notika._leaf_types(given.type) as l (type)
    join pg_type as t on t.oid = l.type;
$$;

comment on function notika._settings(oid[]) is
  'The SET clauses under which values of these types look the same in every session.';

create or replace function notika._json_expression(path text, type oid, depth integer default 0)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_base pg_type;
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
    return format(
      'case when %1$s is not null then coalesce((select pg_catalog.json_agg(%2$s order by %3$s)'
      ' from pg_catalog.generate_subscripts(%1$s, 1) as %3$s), ''[]''::pg_catalog.json) end',
      path,
      notika._json_expression(format('((%s)[%s])', path, v_index), v_base.typelem, depth + 1),
      v_index
    );
  end if;
  if v_base.oid < 16384 then
    return path;
  end if;

  if v_base.typtype = 'c' then
    return (
      select format(
               'case when pg_catalog.num_nonnulls(%s) = 1'
               ' then pg_catalog.json_build_object(%s) end',
               path,
               string_agg(
                 format('%L, %s', a.attname,
                   notika._json_expression(format('(%s).%I', path, a.attname), a.atttypid, depth)),
                 ', ' order by a.attnum
               )
             )
        from pg_attribute as a
       where a.attrelid = v_base.typrelid and a.attnum > 0 and not a.attisdropped
    );
  end if;

  -- An extension knows how its type looks as json; anybody else's cast is not called.
  if exists (
    select from pg_cast as c
      join pg_depend as d
        on d.classid = 'pg_proc'::regclass and d.objid = c.castfunc and d.deptype = 'e'
     where c.castsource = v_base.oid and c.casttarget = 'json'::regtype
  ) then
    return format('%s::pg_catalog.json', path);
  end if;
  return format('case when %1$s is not null then pg_catalog.format(''%%s'', %1$s) end', path);
end;
$$;

comment on function notika._json_expression(text, oid, integer) is
  'An SQL expression for a value of this type as an argument of json_build_object.';

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
  select i.indkey::smallint[]
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
as $$
declare
  v_picked json;
  v_pairs text;
begin
  select string_agg(
           format('%L, %s', a.attname,
             notika._json_expression(format('($1).%I', a.attname), a.atttypid)),
           ', ' order by array_position(_pick.columns, a.attnum), a.attnum
         )
    into v_pairs
    from pg_attribute as a
   where a.attrelid = _pick.relation and a.attnum > 0 and not a.attisdropped
     and (_pick.columns is null or a.attnum = any (_pick.columns));

  execute format('select pg_catalog.json_build_object(%s)', v_pairs)
    into v_picked
    using _pick.changed;
  return v_picked;
end;
$$;

comment on function notika._pick(anyelement, regclass, smallint[]) is
  'Some columns of a row as json, or all: slow, and right whatever they hold.';

create or replace function notika._key(changed anyelement, relation regclass)
  returns json
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select notika._pick(
    _key.changed, _key.relation, coalesce(notika._key_columns(_key.relation), '{}')
  );
$$;

comment on function notika._key(anyelement, regclass) is
  'The key columns of a row as json: what is left of a row that is too big for an event.';

create or replace function notika._exact(value json, type oid)
  returns json
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_base pg_type;
begin
  select t.* into v_base from pg_type as t where t.oid = notika._base_type(_exact.type);

  case
    when v_base.typcategory = 'A' and json_typeof(value) = 'array' then
      return (
        select coalesce(
                 json_agg(
                   notika._exact(
                     e.value,
                     -- Further dimensions are arrays of the same type.
                     case json_typeof(e.value) when 'array' then v_base.oid else v_base.typelem end
                   )
                   order by e.place
                 ),
                 '[]'
               )
          from json_array_elements(_exact.value) with ordinality as e (value, place)
      );
    when v_base.typtype = 'c' and json_typeof(value) = 'object' then
      return notika._row(value, v_base.typrelid);
    when v_base.oid in ('int8'::regtype, 'numeric'::regtype) and json_typeof(value) = 'number' then
      return to_json(value::text);
    else
      return value;
  end case;
end;
$$;

comment on function notika._exact(json, oid) is
  'A value as to_json gives it, with its int8 and numeric numbers as strings.';

create or replace function notika._row(changed json, relation regclass)
  returns json
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Looked up for each row, so that it is right after any DDL.
  select json_object_agg(
           f.key,
           case when a.atttypid is null then f.value else notika._exact(f.value, a.atttypid) end
           order by f.place
         )
    from json_each(_row.changed) with ordinality as f (key, value, place)
    left join pg_attribute as a
      on a.attrelid = _row.relation and a.attname = f.key
     and a.atttypid <> all (
           '{bool,int2,int4,float4,float8,text,varchar,bpchar,uuid,json,jsonb,date,timestamp,
             timestamptz,bytea}'::regtype[]
         );
$$;

comment on function notika._row(json, regclass) is
  'A row as to_json gives it, with its int8 and numeric numbers as strings.';

create or replace function notika._whole_row(changed anyelement, relation regclass)
  returns json
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_row json := to_json(_whole_row.changed);
begin
  -- json columns may hold escapes, such as \u0000, that Postgres keeps but refuses to read.
  if strpos(v_row::text, '\u') > 0 then
    return notika._pick(_whole_row.changed, _whole_row.relation, null);
  end if;
  return notika._row(v_row, _whole_row.relation);
end;
$$;

comment on function notika._whole_row(anyelement, regclass) is
  'A whole row as json, its int8 and numeric numbers as strings.';

create or replace function notika._quoted(relation regclass)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('%I.%I', n.nspname, c.relname)
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
   where c.oid = _quoted.relation;
$$;

comment on function notika._quoted(regclass) is 'The name of a table with its schema.';

create or replace function notika._payload_definition(
  workflow_id integer,
  relation regclass,
  columns text[]
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_pairs text;
  v_size text;
begin
  select string_agg(
           format('%L, %s', k.name,
             notika._json_expression(format('(r).%I', k.name), a.atttypid)),
           ', ' order by k.place
         ),
         string_agg(
           notika._size_expression(format('(r).%I', k.name), a.atttypid, a.atttypmod),
           ' + ' order by k.place
         )
    into v_pairs, v_size
    from unnest(_payload_definition.columns) with ordinality as k (name, place)
    join pg_attribute as a
      on a.attrelid = _payload_definition.relation and a.attname = k.name;

  return format(
    E'create or replace function notika.payload_%s(r %s)\n'
    '  returns pg_catalog.json\n'
    '  language sql\n'
    '  stable\n'
    'begin atomic\n'
    '  select case when %s <= %s then pg_catalog.json_build_object(%s) end;\n'
    'end',
    _payload_definition.workflow_id,
    notika._quoted(_payload_definition.relation),
    coalesce(v_size, '0'),
    (select s.payload_bytes from notika.setting as s),
    v_pairs
  );
end;
$$;

comment on function notika._payload_definition(integer, regclass, text[]) is
  'The statement that makes the payload function: begin atomic, so that Postgres records what it '
  'reads, refuses to drop it and follows renames. It gives null for a row that is too big.';

create or replace function notika._capture_definition(
  workflow_id integer,
  relation regclass,
  columns text[]
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_limit integer := (select s.payload_bytes from notika.setting as s);
  v_settings text;
  v_image text;
  v_append text;
begin
  if _capture_definition.columns is null then
    -- Any type may be added later.
    v_settings := notika._settings(array['interval'::regtype]);
    v_image := format($$
    if pg_column_size(%%1$s) <= %1$s then
      v_%%1$s := notika._whole_row(%%1$s, tg_relid);
    end if;$$, v_limit);
  else
    select notika._settings(array_agg(a.atttypid)) into v_settings
      from pg_attribute as a
     where a.attrelid = _capture_definition.relation
       and a.attname = any (_capture_definition.columns);
    v_image := format($$
    v_%%1$s := notika.payload_%1$s(%%1$s);$$, _capture_definition.workflow_id);
  end if;
  v_image := v_image || format($$
    if v_%%1$s is null or octet_length(v_%%1$s::text) > %1$s then
      v_%%1$s := notika._key(%%1$s, tg_relid);
      v_truncated := true;
    end if;$$, v_limit);

  v_append := format($$
    insert into notika.event_log_%%s
      (workflow_id, operation, new, old, truncated, cause_id, depth)
    values
      (%s, lower(tg_op), v_new, v_old, v_truncated, v_cause_id, v_depth);$$,
    _capture_definition.workflow_id);

  return format($template$create or replace function notika._capture_%1$s()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp%2$s
as $capture$
declare
  v_new json;
  v_old json;
  v_truncated boolean := false;
  v_cause_id bigint;
  v_depth smallint := 0;
  v_segment integer;
begin
  -- Anybody may set these, so they count only in sessions of the owner's members.
  if concat(current_setting('notika.mute', true), current_setting('notika.run', true)) <> ''
     and pg_has_role(session_user, current_user, 'member')
  then
    if current_setting('notika.mute', true) in ('on', 'true', '1', 'yes') then
      return null;
    end if;
    v_cause_id := substring(current_setting('notika.run', true) from '^(\d{1,18})/\d{1,4}$');
    v_depth := coalesce(
      substring(current_setting('notika.run', true) from '^\d{1,18}/(\d{1,4})$')::smallint + 1, 0
    );
  end if;

  if tg_op <> 'DELETE' then%3$s
  end if;
  if tg_op <> 'INSERT' then%4$s
  end if;

  -- The row that was written gave the transaction its xid before this is read.
  v_segment := (pg_sequence_last_value('notika.control_seq') >> 1) %% 3;
  if v_segment = 0 then%5$s
  elsif v_segment = 1 then%6$s
  else%7$s
  end if;

  -- After the insert: before it, a dispatcher could fall asleep in between.
  if pg_sequence_last_value('notika.control_seq') & 1 = 1 then
    perform notika._wake();
  end if;
  return null; -- an after trigger; the result is ignored
end;
$capture$$template$,
    _capture_definition.workflow_id,
    v_settings,
    format(v_image, 'new'),
    format(v_image, 'old'),
    format(v_append, 0),
    format(v_append, 1),
    format(v_append, 2)
  );
end;
$body$;

comment on function notika._capture_definition(integer, regclass, text[]) is
  'The statement that makes the trigger function of a workflow.';

create or replace function notika._changed_expression(column_name text, type oid)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format(
           case
             when t.oid < 16384 and exists (
               select from pg_opclass as o
                where o.opcdefault
                  and o.opcmethod = (select m.oid from pg_am as m where m.amname = 'btree')
                  and (
                    o.opcintype = coalesce(e.oid, t.oid)
                    or t.typtype = 'r' and o.opcintype = 'anyrange'::regtype
                    or t.typtype = 'm' and o.opcintype = 'anymultirange'::regtype
                    or exists (
                      select from pg_cast as c
                       where c.castsource = coalesce(e.oid, t.oid)
                         and c.casttarget = o.opcintype and c.castmethod = 'b'
                    )
                  )
             ) then 'old.%1$I is distinct from new.%1$I'
             -- json has no equality, and comparing it would fail the user's update.
             else 'old.%1$I::pg_catalog.text is distinct from new.%1$I::pg_catalog.text'
           end,
           _changed_expression.column_name
         )
    from pg_type as t
    left join pg_type as e on e.oid = t.typelem and t.typcategory = 'A'
   where t.oid = notika._base_type(_changed_expression.type);
$$;

comment on function notika._changed_expression(text, oid) is
  'SQL over new and old that is true when the column changed, whatever its type.';

create or replace function notika._trigger_definition(
  workflow_id integer,
  relation regclass,
  operation text,
  columns text[],
  watch text[],
  condition text
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_filters text[];
begin
  if operation = 'update' and watch is not null then
    v_filters := v_filters || (
      select format('(%s)', string_agg(
               notika._changed_expression(w.name, a.atttypid), ' or ' order by w.place))
        from unnest(_trigger_definition.watch) with ordinality as w (name, place)
        join pg_attribute as a
          on a.attrelid = _trigger_definition.relation and a.attname = w.name
    );
  end if;
  if condition is not null then
    v_filters := v_filters || format('(%s)', condition);
  end if;
  if columns is not null then
    -- Never evaluated, but a dependency: what takes the payload function away with CASCADE takes
    -- the trigger away too, instead of leaving one that fails the user's writes.
    v_filters := v_filters || format(
      '(true or notika.payload_%s(%s) is null)',
      workflow_id, case operation when 'delete' then 'old' else 'new' end
    );
  end if;

  return format(
    E'create or replace trigger notika_%1$s_%2$s\n'
    '  after %2$s on %3$s\n'
    '  for each row%4$s\n'
    '  execute function notika._capture_%1$s()',
    workflow_id,
    operation,
    notika._quoted(relation),
    E'\n  when (' || array_to_string(v_filters, E'\n    and ') || ')'
  );
end;
$$;

comment on function notika._trigger_definition(integer, regclass, text, text[], text[], text) is
  'The statement that makes the trigger of a workflow for one operation.';
