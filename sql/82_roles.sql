-- Who may do what: publishers, runners and readers, siblings beside the owner.  None includes another,
-- and a role may be several.  notika._rights() is the whole list; what it does not give to anybody is
-- the owner's alone.  What was granted is kept, so that install() can put it back after an upgrade
-- that made functions anew.

create table if not exists notika.grantee (
  role_id oid not null,
  role_name name not null,
  part text not null,
  granted_at timestamptz not null default clock_timestamp(),
  granted_by name not null default session_user,
  constraint grantee_pkey primary key (role_name, part),
  constraint grantee_part_check check (part in ('publisher', 'runner', 'reader'))
);

comment on table notika.grantee is
  'The roles that were made publishers, runners or readers. Their rights follow from notika._rights().';
comment on column notika.grantee.role_id is
  'The role, as a number: with a regrole a dump could not be restored where the role is missing.';
comment on column notika.grantee.role_name is 'Its name, by which a restored copy finds it.';
comment on column notika.grantee.part is 'publisher, runner or reader.';
comment on column notika.grantee.granted_at is 'Since when.';
comment on column notika.grantee.granted_by is 'Who granted it.';

create or replace function notika._rights()
  returns table (kind text, name text, parts text[])
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select l.kind, l.name, l.parts::text[]
    from (
      values
        ('function', 'version', '{publisher,runner,reader}'),
        ('function', '_migrations', '{publisher,runner,reader}'),
        ('view', 'workflows', '{publisher,runner,reader}'),
        ('view', 'health', '{publisher,runner,reader}'),
        ('function', '_health', '{publisher,runner,reader}'), -- a view's functions run as its reader

        -- Publish, and migrate what is published.
        ('function', 'publish', '{publisher}'),
        ('function', 'plan', '{publisher}'),
        ('function', 'configure', '{publisher}'),
        ('function', 'unpublish', '{publisher}'),
        ('function', 'schedule', '{publisher}'),
        ('function', 'unschedule', '{publisher}'),
        ('function', '_plan_by_time', '{publisher}'),
        ('function', '_publish_by_time', '{publisher}'),
        ('function', 'check', '{publisher,runner}'),
        ('function', 'check_ddl', '{publisher}'),
        ('function', '_try_ddl', '{publisher}'), -- check_ddl runs with the rights of its caller
        ('function', '_foresee', '{publisher}'),
        ('function', '_foresee_pinned', '{publisher}'),
        ('function', '_split', '{publisher}'),
        ('function', '_undoable', '{publisher}'),
        ('function', 'allow_breaking_change', '{publisher}'),
        ('function', 'release', '{publisher}'),
        ('function', 'begin_maintenance', '{publisher}'),
        ('function', 'end_maintenance', '{publisher}'),

        -- Run, and what an operator does about runs.
        ('function', 'emit', '{publisher,runner}'),
        ('function', 'backfill', '{runner}'),
        ('function', 'cancel_backfill', '{runner}'),
        ('function', 'replay', '{runner}'),
        ('function', 'pause', '{publisher,runner}'),
        ('function', 'resume', '{publisher,runner}'),
        ('function', 'retry', '{runner}'),
        ('function', 'cancel', '{runner}'),
        ('function', 'dispatch', '{runner}'),
        ('function', 'maintain', '{runner}'),
        ('function', '_beat', '{runner}'),
        ('function', '_claim', '{runner}'),
        ('function', '_doze', '{runner}'),
        ('function', '_enter', '{runner}'),
        ('function', '_remember', '{runner}'),
        ('function', '_begin_step', '{runner}'),
        ('function', '_park', '{runner}'),
        ('function', '_exit', '{runner}'),
        ('function', '_finish', '{runner}'),
        ('function', '_leave', '{runner}'),
        ('function', '_next_due', '{runner}'),

        -- Look, payloads included.
        ('view', 'runs', '{reader}'),
        ('function', 'history', '{reader}'),
        ('function', 'timeline', '{reader}'),
        ('function', '_remembered', '{publisher,runner,reader}'),
        ('view', 'event_log', '{reader}'),
        ('view', 'lag', '{reader}'),
        ('view', 'backfills', '{publisher,runner,reader}'),
        ('view', 'schedules', '{publisher,runner,reader}'),
        ('function', '_bound', '{reader}'),
        ('function', '_captured_at', '{reader}'),
        ('function', '_dispatched', '{reader}'),
        ('function', '_payload', '{reader}'),
        ('function', '_segment', '{reader}'),
        ('sequence', 'control_seq', '{reader}'),
        ('table', 'run_log', '{reader}'),
        ('table', 'step', '{reader}'),
        ('table', 'wait', '{reader}'),
        ('table', 'run_key', '{reader}'),
        ('table', 'batch', '{reader}'),
        ('table', 'batch_event', '{reader}'),
        ('table', 'lane', '{reader}'),
        ('table', 'slot', '{reader}'),
        ('table', 'runner', '{reader}'),
        ('table', 'guard_log', '{reader}'),
        ('table', 'maintenance', '{reader}'),
        ('table', 'setting', '{reader}'),

        -- The owner's.
        ('function', 'install', '{}'),
        ('function', 'uninstall', '{}'),
        ('function', 'grant_publisher', '{}'),
        ('function', 'grant_runner', '{}'),
        ('function', 'grant_reader', '{}'),
        ('function', 'revoke_publisher', '{}'),
        ('function', 'revoke_runner', '{}'),
        ('function', 'revoke_reader', '{}'),
        ('function', '_has_ended', '{}'),
        ('function', '_position', '{}')
    ) as l (kind, name, parts);
$$;

comment on function notika._rights() is
  'What publishers, runners and readers may execute and read in schema notika, and nothing else.';

create or replace function notika._granted(role regrole)
  returns table (privilege text, object text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select lower(a.privilege_type), o.object
    from (
      select format('schema %I', n.nspname) as object, n.nspacl as acl
        from pg_namespace as n
       where n.nspname in ('notika', 'notika_worker')
      union all
      select format('function %s', p.oid::regprocedure), p.proacl
        from pg_proc as p
       where p.pronamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
         and p.proname !~ '^_capture_[0-9]+$' -- see _settle_capture_rights
      union all
      select format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass),
             c.relacl
        from pg_class as c
       where c.relnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
         and c.relkind in ('r', 'p', 'v', 'S')
    ) as o
   cross join aclexplode(o.acl) as a
   where a.grantee = _granted.role;
$$;

comment on function notika._granted(regrole) is 'What a role may do in Notika''s schemas.';

create or replace function notika._due(parts text[])
  returns table (privilege text, object text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select 'usage', 'schema notika' where _due.parts <> '{}'
  union
  select 'execute', format('function %s', p.oid::regprocedure)
    from notika._rights() as r
    join pg_proc as p on p.pronamespace = 'notika'::regnamespace and p.proname = r.name
   where r.kind = 'function' and r.parts && _due.parts
  union
  select 'select',
         format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass)
    from notika._rights() as r
    join pg_class as c on c.relnamespace = 'notika'::regnamespace and c.relname = r.name
   where r.kind <> 'function' and r.parts && _due.parts
  union
  -- graphile-worker works on its tables as whoever runs it.
  select 'usage', 'schema notika_worker' where 'runner' = any (_due.parts)
  union
  select k.privilege, format('table %s', c.oid::regclass)
    from pg_class as c
   cross join unnest('{select,insert,update,delete}'::text[]) as k (privilege)
   where c.relnamespace = 'notika_worker'::regnamespace and c.relkind in ('r', 'p')
     and 'runner' = any (_due.parts)
     and (k.privilege = 'select' or c.relname <> 'migrations');
$$;

comment on function notika._due(text[]) is
  'What a role is to be granted that plays these parts.';

create or replace function notika._settle_rights(role regrole)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_parts text[] := array(
    select g.part from notika.grantee as g where g.role_id = _settle_rights.role
  );
  v_statement text;
  v_count integer := 0;
begin
  for v_statement in
    with due as (select * from notika._due(v_parts)),
         granted as (select * from notika._granted(_settle_rights.role))
    (select format('revoke %s on %s from %s', x.privilege, x.object, _settle_rights.role)
       from (table granted except table due) as x)
    union all
    (select format('grant %s on %s to %s', x.privilege, x.object, _settle_rights.role)
       from (table due except table granted) as x)
  loop
    execute v_statement;
    v_count := v_count + 1;
  end loop;
  return v_count + notika._settle_policies();
end;
$$;

comment on function notika._settle_rights(regrole) is
  'Grants a role what its parts give, revokes whatever else it has, and says how many changes it took.';

create or replace function notika._settle_policies()
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_runners oid[] := array(
    select g.role_id from notika.grantee as g where g.part = 'runner' order by 1
  );
  v_statement text;
  v_count integer := 0;
begin
  -- graphile-worker's tables have row security without a policy: what is granted gives no row.
  for v_statement in
    select case
             when p.oid is null then format('create policy notika_runner on %s to %s using (true)',
                                            c.oid::regclass, r.names)
             when v_runners = '{}' then format('drop policy notika_runner on %s', c.oid::regclass)
             else format('alter policy notika_runner on %s to %s', c.oid::regclass, r.names)
           end
      from pg_class as c
      left join pg_policy as p on p.polrelid = c.oid and p.polname = 'notika_runner'
     cross join (
       select string_agg(u.role::regrole::text, ', ') as names from unnest(v_runners) as u (role)
     ) as r
     where c.relnamespace = 'notika_worker'::regnamespace and c.relrowsecurity
       and v_runners <> array(
         select u.role from unnest(p.polroles) as u (role) order by u.role
       )
  loop
    execute v_statement;
    v_count := v_count + 1;
  end loop;
  return v_count;
end;
$$;

comment on function notika._settle_policies() is
  'Opens the rows of graphile-worker''s tables to the runners, and to nobody else.';

create or replace function notika._grant(role regrole, part text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  if _grant.role is null then
    raise exception 'no role was named'
      using errcode = 'null_value_not_allowed',
            hint = format('For instance: select notika.grant_%s(''<role>'');', _grant.part);
  end if;
  if _grant.role = (select r.oid from pg_roles as r where r.rolname = current_user) then
    raise exception 'role % owns notika and cannot be made a %', _grant.role, _grant.part
      using errcode = 'invalid_grant_operation',
            detail = 'The owner may do everything already.',
            hint = format('Name another role: select notika.grant_%s(''<role>'');', _grant.part);
  end if;

  perform notika._rebind_copy();
  insert into notika.grantee (role_id, role_name, part)
  select r.oid, r.rolname, _grant.part from pg_roles as r where r.oid = _grant.role
  on conflict do nothing;
  perform notika._settle_rights(_grant.role);
end;
$$;

comment on function notika._grant(regrole, text) is 'Gives a role a part and the rights of it.';

create or replace function notika._revoke(role regrole, part text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._rebind_copy();
  delete from notika.grantee as g where g.role_id = _revoke.role and g.part = _revoke.part;
  if found then
    perform notika._settle_rights(_revoke.role);
  end if;
end;
$$;

comment on function notika._revoke(regrole, text) is 'Takes a part from a role, and the rights of it.';

create or replace function notika.grant_publisher(role regrole)
  returns void
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select notika._grant(grant_publisher.role, 'publisher');
$$;

comment on function notika.grant_publisher(regrole) is
  'Lets a role publish on tables that it may read and put triggers on, check migrations, and emit. '
  'It sees no payload and no run.';

create or replace function notika.revoke_publisher(role regrole)
  returns void
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select notika._revoke(revoke_publisher.role, 'publisher');
$$;

comment on function notika.revoke_publisher(regrole) is 'Takes back what grant_publisher gave.';

create or replace function notika.grant_runner(role regrole)
  returns void
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select notika._grant(grant_runner.role, 'runner');
$$;

comment on function notika.grant_runner(regrole) is
  'Lets a role run workflows: hand over, work off the jobs, retry, cancel, pause. It publishes nothing, '
  'and reads of the log only what is in its jobs.';

create or replace function notika.revoke_runner(role regrole)
  returns void
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select notika._revoke(revoke_runner.role, 'runner');
$$;

comment on function notika.revoke_runner(regrole) is 'Takes back what grant_runner gave.';

create or replace function notika.grant_reader(role regrole)
  returns void
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select notika._grant(grant_reader.role, 'reader');
$$;

comment on function notika.grant_reader(regrole) is
  'Lets a role look at everything, payloads included, and change nothing.';

create or replace function notika.revoke_reader(role regrole)
  returns void
  language sql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
as $$
  select notika._revoke(revoke_reader.role, 'reader');
$$;

comment on function notika.revoke_reader(regrole) is 'Takes back what grant_reader gave.';

create or replace function notika._rebind_grantees()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  delete from notika.grantee as g
   where g.role_name not in (select r.rolname from pg_roles as r);
  update notika.grantee as g
     set role_id = r.oid
    from pg_roles as r
   where r.rolname = g.role_name;
end;
$$;

comment on function notika._rebind_grantees() is
  'Finds the roles of a restored copy by their names, and forgets those that are not there.';

create or replace function notika._close()
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_function regprocedure;
  v_is_open boolean := false;
begin
  -- A dump that was restored without its rights leaves every function to everybody.
  for v_function in
    select p.oid
      from pg_proc as p
     cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
     where p.pronamespace = 'notika'::regnamespace and a.grantee = 0
       and p.proname !~ '^_passes_[0-9]+$' -- evaluated as whoever writes
  loop
    execute format('revoke execute on function %s from public', v_function);
    v_is_open := true;
  end loop;
  return v_is_open;
end;
$$;

comment on function notika._close() is
  'Takes from everybody what nobody granted, and says whether there was anything.';

create or replace function notika._install_rights()
  returns table (step text, outcome text, detail text)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_grantee record;
begin
  step := 'rights';
  outcome := case when notika._close() then 'repaired' else 'ok' end;
  detail := 'nobody has one that was not granted';
  return next;
  -- `drop owned` takes a role's rights away, and then the role can be dropped.
  delete from notika.grantee as g
   where not exists (select from pg_roles as r where r.oid = g.role_id);
  update notika.grantee as g
     set role_name = r.rolname
    from pg_roles as r
   where r.oid = g.role_id and r.rolname <> g.role_name;

  for v_grantee in
    select g.role_id::regrole as role, string_agg(g.part, ', ' order by g.part) as parts
      from notika.grantee as g
     group by g.role_id, g.role_name
     order by g.role_name
  loop
    step := format('role %s', v_grantee.role);
    outcome := case when notika._settle_rights(v_grantee.role) > 0 then 'repaired' else 'ok' end;
    detail := v_grantee.parts;
    return next;
  end loop;
end;
$$;

comment on function notika._install_rights() is
  'Gives publishers, runners and readers exactly their rights again.';
