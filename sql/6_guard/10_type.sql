-- The type changes that are allowed for a column that a workflow depends on: those after which
-- every value has the same text in an event.  The new type may be narrower, because Postgres
-- refuses the command if a value does not fit.

create or replace function notika._type_changes()
  returns table (old_type regtype, new_type regtype, rule text, is_narrower boolean)
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- These change the text of values and are not listed: character(n), which is padded to its
  -- length; real to double precision (0.1 becomes 0.10000000149011612); integer to bigint, which is
  -- a string in an event, so that JavaScript does not round it; json to jsonb, which normalizes the
  -- text.
  values
    ('varchar'::regtype, 'varchar'::regtype, 'any', null::boolean),
    ('varchar', 'text', 'any', false),
    ('text', 'varchar', 'any', true),
    ('varbit', 'varbit', 'any', null),
    ('bit', 'varbit', 'any', false),
    ('bit', 'text', 'any', false),
    ('bit', 'varchar', 'any', false),
    ('varbit', 'text', 'any', false),
    ('varbit', 'varchar', 'any', false),
    ('uuid', 'text', 'any', false),
    ('uuid', 'varchar', 'any', false),
    ('anyenum', 'text', 'any', false),
    ('anyenum', 'varchar', 'any', false),
    ('int8', 'text', 'any', false), -- an int8 is a string in an event already
    ('int8', 'varchar', 'any', false),
    ('numeric', 'text', 'any', false),
    ('numeric', 'varchar', 'any', false),
    ('date', 'text', 'any', false),
    ('date', 'varchar', 'any', false),
    ('time', 'text', 'any', false),
    ('time', 'varchar', 'any', false),
    ('cidr', 'text', 'any', false),
    ('cidr', 'varchar', 'any', false),
    ('jsonb', 'json', 'any', false),
    ('int2', 'int4', 'any', false),
    ('int4', 'int2', 'any', true),
    ('int2', 'float4', 'any', false),
    ('int2', 'float8', 'any', false),
    ('int4', 'float8', 'any', false),
    -- The new type has the same scale or none, because 1.2 and 1.20 are different strings.
    ('numeric', 'numeric', 'scale', null),
    ('int8', 'numeric', 'scale', false),
    ('numeric', 'int8', 'scale', true),
    ('time', 'time', 'precision', null),
    ('timetz', 'timetz', 'precision', null),
    ('timestamp', 'timestamp', 'precision', null),
    ('timestamptz', 'timestamptz', 'precision', null),
    ('interval', 'interval', 'precision', null);
$$;

comment on function notika._type_changes() is
  'The type changes that leave events unchanged. rule: any, whatever the lengths; scale, if the '
  'number of digits after the decimal point stays; precision, if there are no fewer fractional '
  'digits. is_narrower: whether the new type holds fewer values; null: that depends on the '
  'lengths.';

create or replace function notika._scale(type oid, typmod integer)
  returns integer
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case
           when type = 'int8'::regtype then 0
           when typmod <> -1 then (((typmod - 4) & 2047) # 1024) - 1024
         end;
$$;

comment on function notika._scale(oid, integer) is
  'The number of digits after the decimal point in values of this type; null: each value keeps its '
  'own.';

create or replace function notika._without_domain(inout type oid, inout typmod integer)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with recursive under (type, typmod, place) as (
    select _without_domain.type, _without_domain.typmod, 0
    union all
    select t.typbasetype, t.typtypmod, u.place + 1
      from under as u
      join pg_type as t on t.oid = u.type and t.typtype = 'd'
  )
  select u.type, u.typmod from under as u order by u.place desc limit 1;
$$;

comment on function notika._without_domain(oid, integer) is
  'The base type of a domain with its modifier; for another type, the type itself.';

create or replace function notika._type_change(
  type oid,
  typmod integer,
  old_type oid,
  old_typmod integer
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_new record;
  v_old record;
  v_change record;
  v_elements record;
begin
  select d.type, d.typmod into v_new
    from notika._without_domain(_type_change.type, _type_change.typmod) as d;
  select d.type, d.typmod into v_old
    from notika._without_domain(_type_change.old_type, _type_change.old_typmod) as d;
  if v_new = v_old then
    return 'type_widened'; -- they differ only by a domain
  end if;

  -- Compare the elements of arrays.  The modifier of an array type is that of its elements.
  select n.typelem as new_type, o.typelem as old_type into v_elements
    from pg_type as n
    join pg_type as o on o.typsubscript = n.typsubscript
   where n.oid = v_new.type and o.oid = v_old.type
     and n.typsubscript = 'array_subscript_handler'::regproc;
  if found then
    return notika._type_change(v_elements.new_type, v_new.typmod, v_elements.old_type, v_old.typmod);
  end if;

  select c.rule, c.is_narrower into v_change
    from notika._type_changes() as c
   where c.new_type = v_new.type
     and c.old_type in (v_old.type, (
       select 'anyenum'::regtype::oid from pg_type as t where t.oid = v_old.type and t.typtype = 'e'
     ));
  if not found
     or v_change.rule = 'scale' and notika._scale(v_new.type, v_new.typmod) is not null
        and notika._scale(v_new.type, v_new.typmod) is distinct from notika._scale(v_old.type, v_old.typmod)
        -- With a negative scale a value has no digits after the decimal point.
        and not coalesce(notika._scale(v_new.type, v_new.typmod) = 0
                         and notika._scale(v_old.type, v_old.typmod) < 0, false)
     or v_change.rule = 'precision' and v_new.typmod <> -1 and not (
       v_old.typmod <> -1
       -- The modifier of an interval also contains its fields, which must be the same.
       and (v_new.typmod >> 16) = (v_old.typmod >> 16)
       and (v_new.typmod & 65535) >= (v_old.typmod & 65535)
     )
  then
    return 'type_changed';
  end if;
  return case
    when coalesce(v_change.is_narrower,
                  v_new.typmod <> -1 and (v_old.typmod = -1 or v_new.typmod < v_old.typmod))
      then 'type_narrowed'
    else 'type_widened'
  end;
end;
$$;

comment on function notika._type_change(oid, integer, oid, integer) is
  'Classifies a change of a column''s type: type_widened or type_narrowed if every value that fits '
  'both types has the same text in an event; otherwise type_changed.';
