-- What may become of the type of a column that a workflow depends on: only what leaves every value
-- looking the same in an event.  A value that the new type does not hold makes Postgres refuse the
-- command, so the new type may as well hold less.

create or replace function notika._type_changes()
  returns table (old_type regtype, new_type regtype, rule text, is_narrower boolean)
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- Not in it, because of what would look different: character(n), which is padded to its length;
  -- real to double precision (0.1 is 0.10000000149011612 then); integer to bigint, which is a string in
  -- an event, so that JavaScript does not round it; json to jsonb, which writes it in its own way.
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
    ('int8', 'text', 'any', false), -- strings in an event anyway
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
    -- With as many digits after the point, or with as many as each number has: 1.2 is another string
    -- than 1.20.
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
  'The types between which a column may change without a difference in events. rule: any, whatever the '
  'lengths; scale, with as many digits after the point; precision, with no fewer fractional digits. '
  'is_narrower: whether the new one holds less; null: that depends on the lengths.';

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
  'How many digits numbers of this type have after the point; null: as many as each was written with.';

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
  'The type under a domain with its modifier, or the type itself.';

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
    return 'type_widened'; -- one of them is a domain
  end if;

  -- An array looks as its elements do, which its modifier is about.
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
        -- Of a negative one there are no digits to see.
        and not coalesce(notika._scale(v_new.type, v_new.typmod) = 0
                         and notika._scale(v_old.type, v_old.typmod) < 0, false)
     or v_change.rule = 'precision' and v_new.typmod <> -1 and not (
       v_old.typmod <> -1
       -- Of an interval the fields, which are in it too, must be the same.
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
  'What a change of a column''s type is: type_widened or type_narrowed, where every value that both hold '
  'looks the same in an event, or else type_changed.';
