import { raw } from "sql-template-tag";
import type { Execute } from "../../runner/database/statements.ts";

/** What is in the schemas of Notika, by object: two databases with the same catalog behave the same. */
export async function catalog(execute: Execute): Promise<Record<string, string>> {
  const rows = await execute<{ object: string; definition: string }>(raw(objects));
  return Object.fromEntries(rows.map(({ object, definition }) => [object, definition]));
}

const objects = `
with
schema as (
  select * from pg_namespace where nspname in ('notika', 'notika_worker')
),
relation as (
  select pg_class.oid::regclass::text as name, pg_class.*
    from pg_class
    join schema on schema.oid = relnamespace
),
object (object, definition) as (
  select 'schema ' || nspname, concat_ws(' ', nspowner::regrole, (select array_agg(item::text order by item::text) from unnest(nspacl) as item))
    from schema
  union all
  select 'relation ' || name,
         concat_ws(' ', relkind, relpersistence, reloptions, relrowsecurity, relforcerowsecurity, relreplident,
                   relowner::regrole, (select array_agg(item::text order by item::text) from unnest(relacl) as item))
    from relation
  union all
  select 'column ' || relation.name || '.' || attname,
         concat_ws(' ', row_number() over (partition by attrelid order by attnum), format_type(atttypid, atttypmod),
                   attnotnull, attidentity, attgenerated, attstorage, attcompression, attcollation::regcollation,
                   attacl, pg_get_expr(adbin, adrelid))
    from pg_attribute
    join relation on relation.oid = attrelid
    left join pg_attrdef on (adrelid, adnum) = (attrelid, attnum)
   where attnum > 0 and not attisdropped
  union all
  select 'constraint ' || conname || ' on ' || relation.name,
         concat_ws(' ', pg_get_constraintdef(pg_constraint.oid), convalidated)
    from pg_constraint
    join relation on relation.oid = conrelid
  union all
  select 'index ' || name, concat_ws(' ', pg_get_indexdef(indexrelid), indisvalid)
    from relation
    join pg_index on indexrelid = relation.oid
  union all
  select 'sequence ' || name,
         concat_ws(' ', seqtypid::regtype, seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle,
                   (select concat_ws(' ', deptype, refobjid::regclass, refobjsubid) from pg_depend
                     where (classid, objid) = ('pg_class'::regclass, relation.oid) and deptype in ('a', 'i')))
    from relation
    join pg_sequence on seqrelid = relation.oid
  union all
  select 'view ' || name, pg_get_viewdef(oid)
    from relation
   where relkind in ('v', 'm')
  union all
  select 'function ' || pg_proc.oid::regprocedure,
         concat_ws(' ', pg_get_functiondef(pg_proc.oid), proowner::regrole,
                   (select array_agg(item::text order by item::text) from unnest(proacl) as item))
    from pg_proc
    join schema on schema.oid = pronamespace
   where prokind <> 'a'
  union all
  select 'type ' || pg_type.oid::regtype,
         concat_ws(' ', typtype, typowner::regrole, typacl, format_type(typbasetype, typtypmod), typnotnull, typdefault,
                   (select array_agg(enumlabel order by enumsortorder) from pg_enum where enumtypid = pg_type.oid),
                   (select array_agg(conname || ' ' || pg_get_constraintdef(oid) order by conname)
                      from pg_constraint where contypid = pg_type.oid))
    from pg_type
    join schema on schema.oid = typnamespace
   where typtype in ('d', 'e', 'r')
  union all
  select 'trigger ' || tgname || ' on ' || tgrelid::regclass, concat_ws(' ', pg_get_triggerdef(pg_trigger.oid), tgenabled)
    from pg_trigger
    join pg_proc on pg_proc.oid = tgfoid
    join schema on schema.oid = pronamespace
   where not tgisinternal
  union all
  select 'event trigger ' || evtname, concat_ws(' ', evtevent, evttags, evtenabled, evtowner::regrole, evtfoid::regprocedure)
    from pg_event_trigger
    join pg_proc on pg_proc.oid = evtfoid
    join schema on schema.oid = pronamespace
  union all
  select 'policy ' || polname || ' on ' || relation.name,
         concat_ws(' ', polcmd, polpermissive, polroles, pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))
    from pg_policy
    join relation on relation.oid = polrelid
  union all
  select concat_ws(' ', 'default privileges', defaclrole::regrole, defaclobjtype), defaclacl::text
    from pg_default_acl
    left join schema on schema.oid = defaclnamespace
   where schema.oid is not null or defaclnamespace = 0
  union all
  select 'comment on ' || id.type || ' ' || id.identity, description
    from pg_description,
         pg_identify_object(classoid, objoid, objsubid) as id
   where id.schema in ('notika', 'notika_worker')
      or id.identity in ('notika', 'notika_worker')
      or id.identity ~ '\\mnotika(_worker)?\\.'
      or (classoid = 'pg_event_trigger'::regclass and id.name ~ '^notika_')
)
select object, definition from object order by object
`;
