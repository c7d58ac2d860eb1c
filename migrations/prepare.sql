-- Runs before an upgrade, in its transaction, as the owner of Notika: refuses what does not fit,
-- and records in the setting notika.state what is there. It is not a migration, and runs on every
-- earlier state of Notika, and in schemas without it: only add to it.

set local client_min_messages = warning; -- without "already exists, skipping"
set local search_path = pg_catalog, pg_temp;

-- A dump without data leaves tables, triggers and functions, but no ledger and no record of what
-- the triggers are for. All of it is dropped, and comes back as a new installation.
do $$
declare
  v_dependents text;
  v_statement text;
begin
  if to_regclass('notika.setting') is null then
    return;
  end if;
  if exists (select from notika.setting) then -- has a row unless data is missing
    return;
  end if;
  if exists (select from notika.workflow) then
    raise exception 'the settings of Notika are missing'
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Restore them: insert into notika.setting default values;';
  end if;

  if to_regprocedure('notika._outside_dependents()') is not null then
    select string_agg(o.name, ', ') into v_dependents from notika._outside_dependents() as o (name);
    if v_dependents is not null then
      raise exception 'cannot install over a copy of Notika without its data: % depends on it', v_dependents
        using errcode = 'dependent_objects_still_exist',
              hint = 'Drop what depends on it, install, and create it again.';
    end if;
  end if;
  for v_statement in
    select o.statement
      from (
        -- The guard is dropped before what it would judge.
        select case when p.proname ~ '^_guard_' then 0 else 1 end as place,
               format('drop routine if exists %s cascade', p.oid::regprocedure) as statement
          from pg_proc as p
         where p.pronamespace in ('notika'::regnamespace, to_regnamespace('notika_worker'))
           and p.proname <> '_as_owner' -- in which this runs
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
  raise warning 'notika: this was a copy without data; it was installed again and nothing is published'
    using hint = 'Publish the workflows again: npx notika publish, or select notika.publish(...).';
end;
$$;

do $$
declare
  -- {"worker": 19, "migrations": {"000001": "<hash>"}}, set by the program that runs this file
  v_known constant json := nullif(current_setting('notika.known', true), '');
  v_worker integer := 0;
  v_migrations text[] := '{}';
  v_code text;
  v_problem text;
begin
  if to_regclass('notika_worker.migrations') is not null then
    select coalesce(max(m.id), 0) into v_worker from notika_worker.migrations as m;
    select 'revision ' || m.id || ' of graphile-worker' into v_problem
      from notika_worker.migrations as m
     where m.breaking and m.id > (v_known ->> 'worker')::integer
     order by m.id
     limit 1;
  end if;
  if v_problem is null and to_regclass('notika.migration') is not null then
    v_migrations := array(select m.name from notika.migration as m where m.name <> 'code' order by m.name);
    select m.hash into v_code from notika.migration as m where m.name = 'code';
    select 'migration "' || m.name || '"' into v_problem
      from notika.migration as m
     where m.name <> 'code' and v_known -> 'migrations' -> m.name is null
     order by m.name
     limit 1;
  end if;
  if v_problem is not null then
    raise exception 'the database has %, which this version of Notika does not know', v_problem
      using errcode = 'NK011',
            hint = 'A newer Notika was installed here: use that version, or a later one.';
  end if;

  if to_regclass('notika.migration') is not null then
    select m.name into v_problem
      from notika.migration as m
     where m.name <> 'code' and m.hash <> v_known -> 'migrations' ->> m.name
     order by m.name
     limit 1;
  end if;
  if v_problem is not null then
    raise exception 'migration "%" is not the one that was applied to the database', v_problem
      using errcode = 'NK012',
            hint = 'A released migration never changes: install Notika from the package, unmodified.';
  end if;

  perform set_config(
    'notika.state',
    json_build_object('worker', v_worker, 'migrations', to_json(v_migrations), 'code', v_code)::text, true);
end;
$$;
