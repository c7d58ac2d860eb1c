-- Who may do what: publishers, runners, readers and monitors beside the owner.  None includes another,
-- and a role may be several.  notika._rights() is the whole list; what it does not give to anybody is
-- the owner's alone.  What was granted is kept, so that install() can put it back after an upgrade
-- that replaced functions, and take away what came by default privileges or by hand.

create table if not exists notika.grantee (
  role_id oid not null,
  role_name name not null,
  part text not null,
  granted_at timestamptz not null default clock_timestamp(),
  granted_by name not null default current_user,
  constraint grantee_pkey primary key (role_name, part),
  constraint grantee_part_check check (part in ('publisher', 'runner', 'reader', 'monitor'))
);

comment on table notika.grantee is
  'The roles that were made publishers, runners, readers or monitors. Their rights follow from '
  'notika._rights().';
comment on column notika.grantee.role_id is
  'The role, as a number: with a regrole a dump could not be restored where the role is missing.';
comment on column notika.grantee.role_name is 'Its name, by which a restored copy finds it.';
comment on column notika.grantee.part is 'publisher, runner, reader or monitor.';
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
        ('function', 'version', '{publisher,runner,reader,monitor}'),
        ('function', '_migrations', '{publisher,runner,reader,monitor}'),
        ('view', 'workflows', '{publisher,runner,reader}'),
        ('view', 'health', '{publisher,runner,reader,monitor}'),
        ('function', '_visible_health', '{publisher,runner,reader,monitor}'),
        ('function', '_health', '{publisher,runner,reader}'), -- a view's functions run as its reader
        ('function', '_health_without_texts', '{monitor}'),

        -- The verbs that decide by their caller pass a request.
        ('function', '_ask', '{publisher,runner}'),
        ('function', '_ask_shortly', '{publisher}'),
        ('function', '_refuse_shortly', '{publisher,runner}'),
        ('request', '_request', '{publisher,runner}'),

        -- Publish, and migrate what is published.
        ('function', 'publish', '{publisher}'),
        ('function', 'plan', '{publisher}'),
        ('function', '_plan', '{publisher}'),
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

        -- What a verb calls with the rights of its caller: it reads the catalog, or makes what is his.
        ('function', '_as_called', '{publisher}'),
        ('function', '_request_of', '{publisher}'),
        ('function', '_call', '{publisher,runner}'),
        ('function', '_read_condition', '{publisher,runner}'),
        ('function', '_parse_condition', '{publisher,runner}'),
        ('function', '_refuse_condition', '{publisher,runner}'),
        ('function', '_without_literals', '{publisher,runner}'),
        ('function', '_names_others', '{publisher,runner}'),
        ('function', '_operators_in', '{publisher,runner}'),
        ('function', '_unsafe_literal', '{publisher,runner}'),
        ('function', '_type_parts', '{publisher,runner}'),
        ('function', '_is_trusted', '{publisher,runner}'),
        ('function', '_needed_rights', '{publisher}'),
        ('function', '_grant_missing', '{publisher}'),
        ('function', '_revoke_given', '{publisher}'),
        ('function', '_owner', '{publisher}'),
        ('function', '_family', '{publisher}'),
        ('function', '_quoted', '{publisher,runner}'),
        ('function', '_relation', '{publisher,runner}'),
        ('function', '_table', '{publisher,runner}'),
        ('function', '_refuse_locked', '{publisher}'),
        ('function', '_lock_timeout', '{publisher}'),

        -- Run, and what an operator does about runs.
        ('function', 'emit', '{publisher,runner}'),
        ('function', 'backfill', '{runner}'),
        ('function', 'cancel_backfill', '{runner}'),
        ('function', 'replay', '{runner}'),
        ('function', 'pause', '{publisher,runner}'),
        ('function', 'resume', '{publisher,runner}'),
        ('function', 'retry', '{publisher,runner}'),
        ('function', 'cancel', '{publisher,runner}'),
        ('function', 'dispatch', '{runner}'),
        ('function', '_installation', '{runner}'),
        ('function', 'maintain', '{runner}'),
        ('function', '_beat', '{runner}'),
        ('function', '_claim', '{runner}'),
        ('function', '_begin', '{runner}'),
        ('function', '_is_own', '{runner}'),
        ('function', '_give_back', '{runner}'),
        ('function', 'event', '{runner,reader}'),
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
        ('view', 'backfills', '{publisher,runner,reader}'),
        ('view', 'schedules', '{publisher,runner,reader}'),
        ('function', '_captured_at', '{reader}'),
        ('function', '_payload', '{reader}'),
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

        -- How it is, without what is in it.
        ('view', 'lag', '{reader,monitor}'),
        ('view', 'run_counts', '{reader,monitor}'),
        ('function', '_bound', '{reader,monitor}'),
        ('function', '_dispatched', '{reader,monitor}'),
        ('function', '_segment', '{reader,monitor}'),
        ('sequence', 'control_seq', '{reader,monitor}'),

        -- What the event triggers call.
        ('function', '_let_through', '{guard}'),
        ('function', '_note_dropped', '{guard}'),
        ('function', '_note_commands', '{guard}'),

        -- The owner's.
        ('function', 'install', '{}'),
        ('function', '_administer', '{}'),
        ('function', 'uninstall', '{}'),
        ('function', 'grant_publisher', '{}'),
        ('function', 'grant_runner', '{}'),
        ('function', 'grant_reader', '{}'),
        ('function', 'grant_monitor', '{}'),
        ('function', 'revoke_publisher', '{}'),
        ('function', 'revoke_runner', '{}'),
        ('function', 'revoke_reader', '{}'),
        ('function', 'revoke_monitor', '{}'),
        ('function', '_has_ended', '{}'),
        ('function', '_position', '{}')
    ) as l (kind, name, parts);
$$;

comment on function notika._rights() is
  'What publishers, runners, readers, monitors and the guard may execute and read in schema notika, '
  'and nothing else.';

create or replace function notika._granted()
  returns table (role oid, privilege text, object text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select a.grantee, lower(a.privilege_type) || o.columns, o.object
    from (
      select format('schema %I', n.nspname) as object, '' as columns, n.nspacl as acl, n.nspowner as owner
        from pg_namespace as n
       where n.nspname in ('notika', 'notika_worker')
      union all
      select format('routine %s', p.oid::regprocedure), '', coalesce(p.proacl, acldefault('f', p.proowner)),
             p.proowner
        from pg_proc as p
       where p.pronamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
      union all
      select format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass),
             '', c.relacl, c.relowner
        from pg_class as c
       where c.relnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
         and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
      union all
      select format('table %s', c.oid::regclass), format(' (%I)', t.attname), t.attacl, c.relowner
        from pg_class as c
        join pg_attribute as t on t.attrelid = c.oid and t.attacl is not null
       where c.relnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
    ) as o
   cross join aclexplode(o.acl) as a
   where a.grantee <> o.owner
     -- The functions of the event triggers are looked after by an administrator.
     and o.owner = (select n.nspowner from pg_namespace as n where n.nspname = 'notika');
$$;

comment on function notika._granted() is
  'Every right that somebody besides the owner has in Notika''s schemas; role 0: everybody.';

create or replace function notika._due(parts text[])
  returns table (privilege text, object text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select 'usage', 'schema notika' where _due.parts <> '{}'
  union
  select 'execute', format('routine %s', p.oid::regprocedure)
    from notika._rights() as r
    join pg_proc as p on p.pronamespace = 'notika'::regnamespace and p.proname = r.name
   where r.kind = 'function' and r.parts && _due.parts
  union
  select 'select',
         format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass)
    from notika._rights() as r
    join pg_class as c on c.relnamespace = 'notika'::regnamespace and c.relname = r.name
   where r.kind in ('view', 'table', 'sequence') and r.parts && _due.parts
  union
  -- Not its column caller.
  select k.privilege, format('table notika.%I', r.name)
    from notika._rights() as r
   cross join unnest('{insert (verb),insert (args),select (result)}'::text[]) as k (privilege)
   where r.kind = 'request' and r.parts && _due.parts
  union
  -- graphile-worker works on its tables as whoever runs it.
  select 'usage', 'schema notika_worker' where 'runner' = any (_due.parts)
  union
  select k.privilege, format('table %s', c.oid::regclass)
    from pg_class as c
   cross join unnest('{select,insert,update,delete}'::text[]) as k (privilege)
   where c.relnamespace = 'notika_worker'::regnamespace and c.relkind in ('r', 'p')
     and 'runner' = any (_due.parts)
     and (k.privilege = 'select' or c.relname <> 'migrations')
  union
  select 'execute', format('routine %s', p.oid::regprocedure)
    from pg_proc as p
   where p.pronamespace = 'notika_worker'::regnamespace and 'runner' = any (_due.parts);
$$;

comment on function notika._due(text[]) is
  'What a role is to be granted that plays these parts.';

create or replace function notika._all_due()
  returns table (role oid, privilege text, object text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select p.role, d.privilege, d.object
    from (
      select g.role_id as role, array_agg(g.part) as parts from notika.grantee as g group by g.role_id
      union all
      select r.oid, '{guard}' from pg_roles as r where r.rolname = 'notika_guard'
    ) as p
   cross join lateral notika._due(p.parts) as d
  union
  select c.grantee, 'execute', format('routine %s', c.function)
    from notika.workflow as w
   cross join lateral notika._capture_rights(w.workflow_id, w.relation) as c
   where w.unpublished_at is null
  union
  -- Evaluated as the writer.
  select 0, 'execute', format('routine %s', p.oid::regprocedure)
    from pg_proc as p
   where p.pronamespace = 'notika'::regnamespace and p.proname ~ '^_passes_[0-9]+$';
$$;

comment on function notika._all_due() is
  'Every right that somebody besides the owner is to have in Notika''s schemas; role 0: everybody.';

create or replace function notika._role_name(role oid)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case _role_name.role when 0 then 'public' else quote_ident(pg_get_userbyid(_role_name.role)) end;
$$;

comment on function notika._role_name(oid) is 'A role as GRANT names it; 0: everybody.';

create or replace function notika._settle_rights()
  returns table (role oid, changes bigint)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_change record;
  v_roles oid[] := array[]::oid[];
begin
  for v_change in
    with due as materialized (select * from notika._all_due()),
         granted as materialized (select * from notika._granted())
    -- Cascade: with the option to grant, it may have been passed on.
    (select x.role, format('revoke %s on %s from %s cascade', x.privilege, x.object,
                           notika._role_name(x.role)) as statement
       from (table granted except table due) as x)
    union all
    (select x.role, format('grant %s on %s to %s', x.privilege, x.object, notika._role_name(x.role))
       from (table due except table granted) as x
      where x.role = 0 or exists (select from pg_roles as r where r.oid = x.role))
  loop
    begin
      execute v_change.statement;
      v_roles := v_roles || v_change.role;
    exception when insufficient_privilege then
      -- The owner has lost USAGE on the schema of a published table, and cannot name a function that
      -- takes its rows: install() and health say so.
      null;
    end;
  end loop;
  perform notika._settle_policies();
  return query select r.role, count(*) from unnest(v_roles) as r (role) group by r.role;
end;
$$;

comment on function notika._settle_rights() is
  'Grants what is due and not granted, revokes what is granted and not due, and says for which roles '
  'that took how many changes.';

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

create or replace function notika._do_grant(caller name, verb text, part text, role oid)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._expect_member(_do_grant.caller, 'decide who may do what with notika');
  if _do_grant.role is null then
    raise exception 'no role was named'
      using errcode = 'null_value_not_allowed',
            hint = format('For instance: select notika.%s_%s(''<role>'');', _do_grant.verb, _do_grant.part);
  end if;
  perform notika._rebind_copy();

  if _do_grant.verb = 'revoke' then
    delete from notika.grantee as g where g.role_id = _do_grant.role and g.part = _do_grant.part;
    if found then
      perform notika._settle_rights();
    end if;
    return;
  end if;

  if _do_grant.role = (select r.oid from pg_roles as r where r.rolname = current_user) then
    raise exception 'role % owns notika and cannot be made a %', _do_grant.role::regrole, _do_grant.part
      using errcode = 'invalid_grant_operation',
            detail = 'The owner may do everything already.',
            hint = format('Name another role: select notika.grant_%s(''<role>'');', _do_grant.part);
  end if;
  insert into notika.grantee (role_id, role_name, part, granted_by)
  select r.oid, r.rolname, _do_grant.part, _do_grant.caller from pg_roles as r where r.oid = _do_grant.role
  on conflict do nothing;
  perform notika._settle_rights();
end;
$$;

comment on function notika._do_grant(name, text, text, oid) is
  'Gives a role a part and the rights of it, or takes it back, for a member of the owner.';

create or replace function notika.grant_publisher(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('grant_publisher', jsonb_build_object('role', grant_publisher.role::oid));
end;
$$;

comment on function notika.grant_publisher(regrole) is
  'Lets a role publish on tables that it may read and put triggers on, check migrations, and emit. '
  'It sees no payload and no run.';

create or replace function notika.revoke_publisher(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('revoke_publisher', jsonb_build_object('role', revoke_publisher.role::oid));
end;
$$;

comment on function notika.revoke_publisher(regrole) is 'Takes back what grant_publisher gave.';

create or replace function notika.grant_runner(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('grant_runner', jsonb_build_object('role', grant_runner.role::oid));
end;
$$;

comment on function notika.grant_runner(regrole) is
  'Lets a role run workflows: hand over, work off the jobs, retry, cancel, pause. It publishes nothing, '
  'and reads of the log only what is in its jobs.';

create or replace function notika.revoke_runner(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('revoke_runner', jsonb_build_object('role', revoke_runner.role::oid));
end;
$$;

comment on function notika.revoke_runner(regrole) is 'Takes back what grant_runner gave.';

create or replace function notika.grant_reader(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('grant_reader', jsonb_build_object('role', grant_reader.role::oid));
end;
$$;

comment on function notika.grant_reader(regrole) is
  'Lets a role look at everything, payloads included, and change nothing.';

create or replace function notika.revoke_reader(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('revoke_reader', jsonb_build_object('role', revoke_reader.role::oid));
end;
$$;

comment on function notika.revoke_reader(regrole) is 'Takes back what grant_reader gave.';

create or replace function notika.grant_monitor(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('grant_monitor', jsonb_build_object('role', grant_monitor.role::oid));
end;
$$;

comment on function notika.grant_monitor(regrole) is
  'Lets a role see how Notika is: notika.lag, notika.run_counts, and notika.health without its texts. '
  'It sees no payload. Members of pg_monitor may from the start.';

create or replace function notika.revoke_monitor(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._ask('revoke_monitor', jsonb_build_object('role', revoke_monitor.role::oid));
end;
$$;

comment on function notika.revoke_monitor(regrole) is 'Takes back what grant_monitor gave.';

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

create or replace function notika._install_rights()
  returns table (step text, outcome text, detail text)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_changed oid[];
  v_left text;
  v_grantee record;
begin
  -- `drop owned` takes a role's rights away, and then the role can be dropped.
  delete from notika.grantee as g
   where not exists (select from pg_roles as r where r.oid = g.role_id);
  update notika.grantee as g
     set role_name = r.rolname
    from pg_roles as r
   where r.oid = g.role_id and r.rolname <> g.role_name;

  v_changed := array(select s.role from notika._settle_rights() as s);
  step := 'rights';
  outcome := case when v_changed <@ array(select g.role_id from notika.grantee as g) then 'ok'
                  else 'repaired' end;
  detail := 'nobody has one that was not granted';
  select format('%s on %s could not be taken from %s; first: %s', x.privilege, x.object,
                notika._role_name(x.role), coalesce(m.remedy, 'select * from notika.health;'))
    into v_left
    from (select * from notika._granted() except select * from notika._all_due()) as x
    left join lateral (
      select min(r.remedy) as remedy from notika._missing_rights() as r where r.finding = 'usage_missing'
    ) as m on true
   order by x.object
   limit 1;
  if found then
    outcome := 'failed';
    detail := v_left;
  end if;
  return next;

  for v_grantee in
    select g.role_id, string_agg(g.part, ', ' order by g.part) as parts
      from notika.grantee as g
     group by g.role_id, g.role_name
     order by g.role_name
  loop
    step := format('role %s', notika._role_name(v_grantee.role_id));
    outcome := case when v_grantee.role_id = any (v_changed) then 'repaired' else 'ok' end;
    detail := v_grantee.parts;
    return next;
  end loop;
end;
$$;

comment on function notika._install_rights() is
  'Gives everybody exactly the rights of their parts, and takes whatever else they have.';
