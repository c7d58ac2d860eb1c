-- Runs before the migrations, in their transaction, at every install, as the owner of Notika: makes
-- the two ledgers and refuses what does not fit.  No migration itself, it meets every Notika there
-- was: only add to it.

set local client_min_messages = warning; -- "already exists, skipping" is no news
set local search_path = pg_catalog, pg_temp;

-- A dump without data leaves tables, triggers and functions, but no ledger and nothing that says
-- what the triggers are for.  All of it goes, and comes again as a new installation.
do $$
declare
  v_dependents text;
  v_statement text;
begin
  if to_regclass('notika.setting') is null then
    return;
  end if;
  if exists (select from notika.setting) then -- has a row wherever Notika is whole
    return;
  end if;
  if exists (select from notika.workflow) then
    raise exception 'the settings of Notika are missing'
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Put them back: insert into notika.setting default values;';
  end if;

  if to_regprocedure('notika._outside_dependents()') is not null then
    select string_agg(o.name, ', ') into v_dependents from notika._outside_dependents() as o (name);
    if v_dependents is not null then
      raise exception 'cannot install over a copy of Notika without its data: % depends on it', v_dependents
        using errcode = 'dependent_objects_still_exist',
              hint = 'Drop what depends on it, install, and make it again.';
    end if;
  end if;
  for v_statement in
    select o.statement
      from (
        -- The guard before what it would judge.
        select case when p.proname ~ '^_guard_' then 0 else 1 end as place,
               format('drop routine if exists %s cascade', p.oid::regprocedure) as statement
          from pg_proc as p
         where p.pronamespace in ('notika'::regnamespace, to_regnamespace('notika_worker'))
           and p.proname <> '_as_owner' -- which this runs in
        union all
        select case c.relkind when 'v' then 2 when 'r' then 3 else 4 end,
               format('drop %s if exists %s cascade',
                      case c.relkind when 'v' then 'view' when 'r' then 'table' else 'sequence' end,
                      c.oid::regclass)
          from pg_class as c
         where c.relnamespace in ('notika'::regnamespace, to_regnamespace('notika_worker'))
           and c.relkind in ('v', 'r', 'S')
        union all
        select 5, format('drop type if exists %s cascade', t.oid::regtype)
          from pg_type as t
         where t.typnamespace in ('notika'::regnamespace, to_regnamespace('notika_worker'))
           and t.typtype in ('c', 'd', 'e') and t.typelem = 0
           and not exists (
             select from pg_class as c where c.oid = t.typrelid and c.relkind in ('r', 'v')
           )
      ) as o
     order by o.place
  loop
    execute v_statement;
  end loop;
  raise warning 'notika: this was a copy without data; it was installed anew and nothing is published'
    using hint = 'Publish the workflows again: npx notika publish, or select notika.publish(...).';
end;
$$;

create table if not exists notika.migration (
  name text not null,
  hash text not null,
  applied_at timestamptz not null default now(),
  constraint migration_pkey primary key (name)
);

comment on table notika.migration is
  'The migrations of Notika that this database has.';
comment on column notika.migration.name is
  'The name of the file, without its ending.';
comment on column notika.migration.hash is
  'SHA-256 of the file, which never changes once it is released.';
comment on column notika.migration.applied_at is
  'When it was applied.';

-- graphile-worker's, as it makes it: where there is one, it does not ask for CREATE on the database.
create table if not exists notika_worker.migrations (
  id int primary key,
  ts timestamptz not null default now(),
  breaking boolean not null default false
);

do $$
declare
  -- {"worker": 19, "migrations": {"000001": "<hash>"}}, set by whoever runs this file
  v_known constant json := nullif(current_setting('notika.known', true), '');
  v_unknown text;
begin
  select 'revision ' || m.id || ' of graphile-worker' into v_unknown
    from notika_worker.migrations as m
   where m.breaking and m.id > (v_known ->> 'worker')::integer
   order by m.id
   limit 1;

  if v_unknown is null then
    select 'migration "' || m.name || '"' into v_unknown
      from notika.migration as m
     where v_known -> 'migrations' -> m.name is null
     order by m.name
     limit 1;
  end if;

  if v_unknown is not null then
    raise exception 'the database has %, which this version of Notika does not know', v_unknown
      using errcode = 'NK011',
            hint = 'A newer Notika was installed here: use that version, or a later one.';
  end if;

  select m.name into v_unknown
    from notika.migration as m
   where m.hash <> v_known -> 'migrations' ->> m.name
   order by m.name
   limit 1;

  if v_unknown is not null then
    raise exception 'migration "%" is not the one that was applied to the database', v_unknown
      using errcode = 'NK012',
            hint = 'A released migration never changes: install Notika from the package, unmodified.';
  end if;
end;
$$;
