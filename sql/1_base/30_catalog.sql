-- Catalog queries about the application's tables, columns, types and functions.

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
  -- Most types have no elements or attributes.
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
  'The scalar types in a type, found through its arrays, composite types and domains.';

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
  'The columns of the primary key, or of the replica identity index if there is none; null: there '
  'is neither.';

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

comment on function notika._quoted(regclass) is
  'The qualified and quoted name of a table; null: there is no such table.';

create or replace function notika._has_event_triggers()
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select 3 = (
    select count(*) from pg_event_trigger as e
     where e.evtname in ('notika_guard_start', 'notika_guard_drop', 'notika_guard_end')
       and e.evtenabled in ('O', 'A')
       and coalesce(current_setting('event_triggers', true), 'on') = 'on'
  );
$$;

comment on function notika._has_event_triggers() is
  'Whether the event triggers of the guard are enabled, so that it judges at commit. Otherwise '
  'only the pins refuse commands.';

create or replace function notika._is_reserved(namespace oid)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select n.nspname ~ '^(pg_.*|information_schema)$' or n.oid = any (notika._own_schemas())
    from pg_namespace as n
   where n.oid = _is_reserved.namespace;
$$;

comment on function notika._is_reserved(oid) is
  'Whether a schema belongs to Postgres or to Notika. Tables in it cannot be published.';

create or replace function notika._may_write(role oid, relation regclass)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select (has_any_column_privilege(r.oid, _may_write.relation, 'insert, update')
          or has_table_privilege(r.oid, _may_write.relation, 'delete'))
     and r.rolname !~ '^pg_' -- the members of a predefined role are checked themselves
    from pg_roles as r
   where r.oid = _may_write.role;
$$;

comment on function notika._may_write(oid, regclass) is
  'Whether a role has the right to insert, update or delete in a table.';

create or replace function notika._family(relation regclass)
  returns setof regclass
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Postgres gives partitions the triggers of their parent, but not inheritance children.
  return query
    with recursive family as (
      select _family.relation::oid as oid
      union
      select i.inhrelid
        from family as f
        join pg_inherits as i on i.inhparent = f.oid
        join pg_class as c on c.oid = i.inhrelid and not c.relispartition and c.relpersistence <> 't'
    )
    select f.oid::regclass from family as f;
end;
$$;

comment on function notika._family(regclass) is
  'A table and its inheritance children: the tables that need triggers of their own.';

create or replace function notika._wants_pins(guard text)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- A pin refuses a command, which guard => warn must not do.  Event triggers lift pins in time.
  select _wants_pins.guard = 'block' or notika._has_event_triggers();
$$;

comment on function notika._wants_pins(text) is
  'Whether the functions of a workflow that is not broken depend on its columns.';

create or replace function notika._operators(operator oid)
  returns setof oid
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with recursive operator (oid, negator, commutator) as (
    select o.oid, o.oprnegate, o.oprcom from pg_operator as o where o.oid = _operators.operator
    union
    select o.oid, o.oprnegate, o.oprcom
      from operator as k
      join pg_operator as o on o.oid in (k.negator, k.commutator)
     where k.oid >= 16384
  )
  select o.oid from operator as o;
$$;

comment on function notika._operators(oid) is
  'An operator, with its negator and its commutator, which the planner may use instead.';

create or replace function notika._called(class oid, object oid)
  returns setof regprocedure
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select d.refobjid::regprocedure
    from pg_depend as d
   where d.classid = _called.class and d.objid = _called.object and d.refclassid = 'pg_proc'::regclass
  union
  select o.oprcode::regprocedure
    from pg_depend as d
   cross join lateral notika._operators(d.refobjid) as p (oid)
    join pg_operator as o on o.oid = p.oid
   where d.classid = _called.class and d.objid = _called.object
     and d.refclassid = 'pg_operator'::regclass and o.oprcode <> 0;
$$;

comment on function notika._called(oid, oid) is
  'The functions that an object depends on, including those of operators.';

create or replace function notika._key_names(relation regclass)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array_agg(a.attname::text order by k.place)
    from unnest(notika._key_columns(_key_names.relation)) with ordinality as k (attnum, place)
    join pg_attribute as a on a.attrelid = _key_names.relation and a.attnum = k.attnum;
$$;

comment on function notika._key_names(regclass) is
  'The column names of the primary key, or of the replica identity index if there is none; null: '
  'there is neither.';

create or replace function notika._only(relation regclass)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- A query of a partitioned table has to include its partitions; children are read separately.
  select case c.relkind when 'p' then '' else 'only ' end
    from pg_class as c
   where c.oid = _only.relation;
$$;

comment on function notika._only(regclass) is
  'The word ONLY for a table whose children are read separately; empty for a partitioned table.';

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

comment on function notika._labels(oid) is
  'The labels of the enums in a type, in their order; null: there are none.';

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
  'The oids of the labels of the enums in a type, in the order of _labels.';

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
  'A type with the types of its elements and attributes, at all depths and without domains.';

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
  'The attributes of the composite types in a type, with their types; null: there are none.';

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

comment on function notika._tables(regclass) is
  'A table with its partitions and inheritance children.';

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
  'The columns of the primary key, or of the replica identity index if there is none, as they are '
  'in the catalog now.';

create or replace function notika._schemas(path text)
  returns name[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
  -- Temporary tables come first.  "$user" is the session's role, not the owner of this function.
  select array(
           select n.nspname from pg_namespace as n where n.oid = pg_my_temp_schema()
         )
         || array(
           select case (parse_ident(m[1]))[1]
                    when '$user' then notika._session_role() else (parse_ident(m[1]))[1] end
             from regexp_matches(_schemas.path, '("(?:[^"]|"")+"|[^", ]+)', 'g') with ordinality as p (m, place)
            order by p.place
         )::name[];
$body$;

comment on function notika._schemas(text) is
  'The schemas on a search path, as the caller''s session resolves them.';
