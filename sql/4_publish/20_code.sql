-- Which functions the rights of Notika's owner execute besides its own code: the functions in what
-- Postgres has parsed of a payload function, and those that belong to a table and that Postgres
-- may execute when it plans a query of it.

create or replace function notika._type_parts(type oid)
  returns setof oid
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with recursive part as (
    select _type_parts.type as oid
    union
    select i.oid
      from part as p
      join pg_type as t on t.oid = p.oid
     cross join lateral (
       select t.typelem as oid where t.typelem <> 0 and t.typsubscript = 'array_subscript_handler'::regproc
       union all
       select t.typbasetype where t.typtype = 'd'
       union all
       select r.rngsubtype from pg_range as r where t.oid in (r.rngtypid, r.rngmultitypid)
       union all
       select r.rngtypid from pg_range as r where r.rngmultitypid = t.oid
       union all
       select a.atttypid from pg_attribute as a
        where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
     ) as i
  )
  select p.oid from part as p;
$$;

comment on function notika._type_parts(oid) is
  'A type and all types that it contains: elements, attributes, the base of a domain or range.';

create or replace function notika._is_trusted(class oid, object oid, owner oid)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select _is_trusted.object < 16384
      or (select r.rolsuper from pg_roles as r where r.oid = _is_trusted.owner)
      -- The owner of an extension may add a function to it.
      or exists (
        select from pg_depend as d
          join pg_extension as x on x.oid = d.refobjid
          join pg_roles as r on r.oid = x.extowner and r.rolsuper
         where d.classid = _is_trusted.class and d.objid = _is_trusted.object and d.deptype = 'e'
      );
$$;

comment on function notika._is_trusted(oid, oid, oid) is
  'Whether a function or type is Postgres'' own, an extension''s or a superuser''s.';

create or replace function notika._is_trusted(function oid)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- A function can be replaced by its owner, with one that does something else.
  select _is_trusted.function < 16384
      or coalesce((
           select notika._is_trusted('pg_proc'::regclass, p.oid, p.proowner) or p.proowner = n.nspowner
             from pg_proc as p
             join pg_namespace as n on n.nspname = 'notika'
            where p.oid = _is_trusted.function
         ), false);
$$;

comment on function notika._is_trusted(oid) is
  'Whether a function is Postgres'' own, an extension''s, a superuser''s, or belongs to the owner '
  'of Notika.';

create or replace function notika._foreign_code(tree text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_token text[];
  v_depth integer := 0;
  v_kinds text[];
  v_functions oid[];
  v_types oid[];
  v_makes_json boolean;
begin
  -- In names, a backslash precedes every character that could be taken for structure.
  for v_token in
    select m
      from regexp_matches(
             tree,
             '\\.|(\{)([A-Z]+)|(\})|:(?:funcid|opfuncid|aggfnoid|winfnoid) ([0-9]+)|'
             ':(?:resulttype|funcresulttype|opresulttype|casetype|coalescetype|consttype|vartype|'
             'paramtype|refrestype|array_typeid) ([0-9]+)',
             'g') as m
  loop
    if v_token[1] is not null then
      v_depth := v_depth + 1;
      v_kinds[v_depth] := v_token[2];
      v_functions[v_depth] := null;
      v_types[v_depth] := null;
      if v_token[2] in ('COERCETODOMAIN', 'COERCEVIAIO', 'CONVERTROWTYPEEXPR') then
        return format('a conversion (%s)', v_token[2]);
      end if;
    elsif v_token[4] is not null then
      v_functions[v_depth] := v_token[4]::oid;
      if v_token[4]::oid >= 16384 and not notika._is_trusted(v_token[4]::oid) then
        return format('function %s', v_token[4]::regprocedure);
      end if;
    elsif v_token[5] is not null then
      v_types[v_depth] := coalesce(v_types[v_depth], v_token[5]::oid);
    elsif v_token[3] is not null then
      v_depth := v_depth - 1;
      continue when v_depth < 1 or v_types[v_depth + 1] < 16384;
      -- A function that makes json of any value looks for a cast of its type when it runs.
      v_makes_json := v_kinds[v_depth] = 'TARGETENTRY' and v_kinds[v_depth + 1] = 'FIELDSELECT'
        or exists (
          select from pg_proc as p
           where p.oid = v_functions[v_depth] and p.pronamespace = 'pg_catalog'::regnamespace
             and p.prorettype in ('json'::regtype, 'jsonb'::regtype) and p.proname <> 'json_object'
        );
      if v_makes_json and coalesce(notika._base_type(v_types[v_depth + 1]), 16384) >= 16384 then
        return format('what belongs to type %s', coalesce(
          format_type(v_types[v_depth + 1], null), 'of a ' || v_kinds[v_depth + 1]));
      end if;
    end if;
  end loop;
  return null;
end;
$$;

comment on function notika._foreign_code(text) is
  'A function in a parsed function that would be executed with it and is not Postgres'' own, a '
  'superuser''s or the owner''s; null if there is none.';

create or replace function notika._check_payload_code(workflow_id integer)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_function regprocedure;
  v_foreign text;
begin
  -- The columns of the table may have changed between reading the catalog and creating the
  -- function.
  select f.function, f.foreign_code into v_function, v_foreign
    from (
      select p.oid::regprocedure as function, notika._foreign_code(p.prosqlbody::text) as foreign_code
        from pg_proc as p
       where p.pronamespace = 'notika'::regnamespace and p.prosqlbody is not null
         and p.proname = format('payload_%s', _check_payload_code.workflow_id)
    ) as f
   where f.foreign_code is not null
   limit 1;
  if found then
    raise exception 'function % would execute % with the rights of "%"',
      v_function, v_foreign, current_user
      using errcode = 'insufficient_privilege',
            detail = 'The table was changed while the function was created.',
            hint = 'Try again.';
  end if;
end;
$$;

comment on function notika._check_payload_code(integer) is
  'Refuses payload functions in which Postgres has found more than was written.';

create or replace function notika._planned_functions(relation regclass)
  returns table (function regprocedure, part text, is_partition_key boolean)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with parts (relation) as (
    select _planned_functions.relation::oid
    union
    select p.relid from pg_partition_tree(_planned_functions.relation) as p
    union
    select a from pg_partition_ancestors(_planned_functions.relation) as a
  ), parsed (class, object, part, is_partition_key) as (
    select 'pg_class'::regclass, p.relation, 'the partition key of ' || notika._quoted(p.relation), true
      from parts as p
     where (select c.relkind from pg_class as c where c.oid = p.relation) = 'p'
    union all
    select 'pg_class'::regclass, i.indexrelid, format('index %I', c.relname), false
      from parts as p
      join pg_index as i on i.indrelid = p.relation
      join pg_class as c on c.oid = i.indexrelid
    union all
    select 'pg_statistic_ext'::regclass, s.oid, format('statistics %I', s.stxname), false
      from parts as p
      join pg_statistic_ext as s on s.stxrelid = p.relation
    union all
    -- Virtual columns are computed by the query.
    select 'pg_attrdef'::regclass, d.oid, format('column %I', a.attname), false
      from parts as p
      join pg_attribute as a on a.attrelid = p.relation and a.attgenerated = 'v'
      join pg_attrdef as d on (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
  )
  select c.function, p.part, p.is_partition_key
    from parsed as p
   cross join notika._called(p.class, p.object) as c (function)
   where not notika._is_trusted(c.function)
   order by p.part, c.function;
$$;

comment on function notika._planned_functions(regclass) is
  'The functions of other roles that Postgres may execute for any role that plans a query of a '
  'table: the planner evaluates expressions that have the same value for all rows.';

create or replace function notika._check_planning(relation regclass, only_partition_key boolean)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_function regprocedure;
  v_part text;
begin
  select f.function, f.part into v_function, v_part
    from notika._planned_functions(_check_planning.relation) as f
   where f.is_partition_key or not _check_planning.only_partition_key
   limit 1;
  if found then
    raise exception 'function % of % would be executed with the rights of "%"',
      v_function, v_part, current_user
      using errcode = 'insufficient_privilege',
            detail = 'Postgres executes it when it reads the partition key or plans a query, where it has the same '
                     'value for all rows.',
            hint = format('If you trust it: alter function %s owner to %I;', v_function, current_user);
  end if;
end;
$$;

comment on function notika._check_planning(regclass, boolean) is
  'Refuses a table whose indexes, statistics or partition keys call functions of other roles. For '
  'creating a trigger only the partition keys matter.';
