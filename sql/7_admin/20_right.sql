-- The rights of publishers, runners, readers and monitors. No part includes another, and a role
-- may have several. notika._rights() is the whole list; everything else belongs to the owner
-- alone. Granted parts are recorded, so that install() can restore them after an upgrade that
-- replaced functions, and revoke what was granted by default privileges or by hand.

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

        -- The verbs that depend on their caller pass a request.
        ('function', '_submit_request', '{publisher,runner}'),
        ('function', '_submit_request_quietly', '{publisher}'),
        ('function', '_raise_without_context', '{publisher,runner}'),
        ('request', '_request', '{publisher,runner}'),

        -- Publishing, and migrations of published tables.
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
        ('function', '_preview', '{publisher}'),
        ('function', '_preview_pinned', '{publisher}'),
        ('function', '_split', '{publisher}'),
        ('function', '_undoable', '{publisher}'),
        ('function', 'allow_breaking_change', '{publisher}'),
        ('function', 'release', '{publisher}'),
        ('function', 'begin_maintenance', '{publisher}'),
        ('function', 'end_maintenance', '{publisher}'),

        -- Functions that a verb calls with the rights of its caller: they read the catalog, or
        -- create objects that belong to the caller.
        ('function', '_as_called', '{publisher}'),
        ('function', '_request_of', '{publisher}'),
        ('function', '_publish_call', '{publisher,runner}'),
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

        -- Running, and what an operator does to runs.
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

        -- Reading, payloads included.
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

        -- The state of Notika, without payloads.
        ('view', 'lag', '{reader,monitor}'),
        ('view', 'run_counts', '{reader,monitor}'),
        ('function', '_bound', '{reader,monitor}'),
        ('function', '_dispatched', '{reader,monitor}'),
        ('function', '_segment', '{reader,monitor}'),
        ('function', '_own_schemas', '{reader,monitor}'),
        ('sequence', 'control_seq', '{reader,monitor}'),

        -- What the event triggers call.
        ('function', '_unpin_for_command', '{guard}'),
        ('function', '_note_dropped', '{guard}'),
        ('function', '_note_commands', '{guard}'),

        -- For members of the owner.
        ('function', 'install', '{}'),
        ('function', 'refresh', '{runner}'),
        ('function', '_captured', '{runner}'),
        ('function', '_refresh', '{runner}'),
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
  'What publishers, runners, readers, monitors and the guard may execute and read in schema '
  'notika; they may do nothing else.';

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
       where n.oid = any (notika._own_schemas())
      union all
      select format('routine %s', p.oid::regprocedure), '', coalesce(p.proacl, acldefault('f', p.proowner)),
             p.proowner
        from pg_proc as p
       where p.pronamespace = any (notika._own_schemas())
      union all
      select format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass),
             '', c.relacl, c.relowner
        from pg_class as c
       where c.relnamespace = any (notika._own_schemas())
         and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S')
      union all
      select format('table %s', c.oid::regclass), format(' (%I)', t.attname), t.attacl, c.relowner
        from pg_class as c
        join pg_attribute as t on t.attrelid = c.oid and t.attacl is not null
       where c.relnamespace = any (notika._own_schemas())
    ) as o
   cross join aclexplode(o.acl) as a
   where a.grantee <> o.owner
     -- An administrator takes care of the functions of the event triggers.
     and o.owner = (select n.nspowner from pg_namespace as n where n.nspname = 'notika');
$$;

comment on function notika._granted() is
  'Every right in Notika''s schemas that a role other than the owner has; role 0 is PUBLIC.';

create or replace function notika._rights_due(parts text[])
  returns table (privilege text, object text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select 'usage', 'schema notika' where _rights_due.parts <> '{}'
  union
  select 'execute', format('routine %s', p.oid::regprocedure)
    from notika._rights() as r
    join pg_proc as p on p.pronamespace = 'notika'::regnamespace and p.proname = r.name
   where r.kind = 'function' and r.parts && _rights_due.parts
  union
  select 'select',
         format('%s %s', case c.relkind when 'S' then 'sequence' else 'table' end, c.oid::regclass)
    from notika._rights() as r
    join pg_class as c on c.relnamespace = 'notika'::regnamespace and c.relname = r.name
   where r.kind in ('view', 'table', 'sequence') and r.parts && _rights_due.parts
  union
  -- Not its column caller.
  select k.privilege, format('table notika.%I', r.name)
    from notika._rights() as r
   cross join unnest('{insert (verb),insert (args),select (result)}'::text[]) as k (privilege)
   where r.kind = 'request' and r.parts && _rights_due.parts
  union
  -- graphile-worker uses its tables with the rights of the role that runs it.
  select 'usage', 'schema notika_worker' where 'runner' = any (_rights_due.parts)
  union
  select k.privilege, format('table %s', c.oid::regclass)
    from pg_class as c
   cross join unnest('{select,insert,update,delete}'::text[]) as k (privilege)
   where c.relnamespace = 'notika_worker'::regnamespace and c.relkind in ('r', 'p')
     and 'runner' = any (_rights_due.parts)
     and (k.privilege = 'select' or c.relname <> 'migrations')
  union
  select 'execute', format('routine %s', p.oid::regprocedure)
    from pg_proc as p
   where p.pronamespace = 'notika_worker'::regnamespace and 'runner' = any (_rights_due.parts);
$$;

comment on function notika._rights_due(text[]) is 'The rights of a role that has these parts.';

create or replace function notika._all_rights_due()
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
   cross join lateral notika._rights_due(p.parts) as d
  union
  select c.grantee, 'execute', format('routine %s', c.function)
    from notika.workflow as w
   cross join lateral notika._capture_rights(w.workflow_id, w.relation) as c
   where w.unpublished_at is null
  union
  -- Evaluated with the rights of the writer.
  select 0, 'execute', format('routine %s', p.oid::regprocedure)
    from pg_proc as p
   where p.pronamespace = 'notika'::regnamespace and p.proname ~ '^_passes_[0-9]+$';
$$;

comment on function notika._all_rights_due() is
  'Every right in Notika''s schemas that a role other than the owner should have; role 0 is '
  'PUBLIC.';

create or replace function notika._role_name(role oid)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case _role_name.role when 0 then 'public' else quote_ident(pg_get_userbyid(_role_name.role)) end;
$$;

comment on function notika._role_name(oid) is 'A role as GRANT names it; 0 is PUBLIC.';

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
    with due as materialized (select * from notika._all_rights_due()),
         granted as materialized (select * from notika._granted())
    -- Cascade: with a grant option, the right may have been passed on.
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
      -- The owner has lost USAGE on the schema of a published table, and cannot name a function
      -- whose argument is a row of it; install() and health report that.
      null;
    end;
  end loop;
  perform notika._settle_policies();
  return query select r.role, count(*) from unnest(v_roles) as r (role) group by r.role;
end;
$$;

comment on function notika._settle_rights() is
  'Grants rights that are due and missing, revokes those that are granted and not due, and '
  'returns the number of changes for each role.';

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
  -- graphile-worker's tables have row security without a policy: a role with a grant alone sees no
  -- rows.
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
  'Opens the rows of graphile-worker''s tables to the runners only.';

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
  -- `drop owned` revokes the rights of a role; then the role can be dropped.
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
  detail := 'no role has a right that was not granted';
  select format('%s on %s could not be taken from %s; first: %s', x.privilege, x.object,
                notika._role_name(x.role), coalesce(m.remedy, 'select * from notika.health;'))
    into v_left
    from (select * from notika._granted() except select * from notika._all_rights_due()) as x
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
  'Gives each role exactly the rights of its parts, and revokes all others.';

create or replace function notika._missing_rights()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
  with published as (
    select w.workflow_id, w.name, w.relation, w.condition_uses, c.relnamespace
      from notika.workflow as w
      join pg_class as c on c.oid = w.relation
     where w.unpublished_at is null
  )
  -- A condition is evaluated with the rights of the role that writes.
  select distinct 'execute_missing', 'error', w.name,
         format('role "%s" writes to %s and may not execute function %s, which its condition calls: '
                'these writes fail', r.rolname, notika._quoted(w.relation), e.name),
         format('grant execute on function %s to %I;', e.name, r.rolname)
    from published as w
   cross join lateral notika._executed(w.condition_uses, w.relation) as e
    join pg_roles as r on notika._may_write(r.oid, w.relation)
   where e.kind = 'function' and not has_function_privilege(r.oid, e.object, 'execute')
  union all
  select 'usage_missing', 'warning', w.name,
         format('role "%s" may not use schema %I any more: changes are captured, but the workflow '
                'cannot be published again', current_user, n.nspname),
         format('grant usage on schema %I to %I;', n.nspname, current_user)
    from published as w
    join pg_namespace as n on n.oid = w.relnamespace
   where not has_schema_privilege(n.oid, 'usage')
  union all
  select 'trigger_missing', 'warning', w.name,
         format('role "%s" may not create triggers on %s: changes are captured, but the workflow '
                'cannot be published again', current_user, notika._quoted(d.relation)),
         format('grant trigger on %s to %I;', notika._quoted(d.relation), current_user)
    from published as w
    join notika.contract_table as d on d.workflow_id = w.workflow_id
    join pg_class as c on c.oid = d.relation
   where not has_table_privilege(d.relation, 'trigger');
$$;

comment on function notika._missing_rights() is
  'The rights that published workflows need and that are missing, with the GRANT.';

create or replace function notika._surplus_rights()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Granted by hand, or by default privileges that an administrator has set for all new objects.
  select 'surplus_rights', 'warning', null::text,
         format('role %s has %s right%s in Notika''s schemas that nobody granted it by a part: %s%s',
                s.role, s.count, case when s.count > 1 then 's' end, s.first,
                case when s.count > 1 then ', ...' end),
         'select * from notika.install();'
    from (
      select notika._role_name(x.role) as role, count(*) as count,
             min(format('%s on %s', x.privilege, x.object)) as first
        from (select * from notika._granted() except select * from notika._all_rights_due()) as x
       -- A copy without its data does not have the list of parts.
       where exists (select from notika.setting)
       group by x.role
    ) as s
  union all
  select 'superuser_owner', 'error', null, format(
           'Notika is owned by superuser "%s": what it does for other roles is done with the rights of a '
           'superuser, so requests are refused', r.rolname),
         'As an administrator: npx notika install, or psql with what npx notika sql prints'
    from pg_roles as r
   where r.rolname = notika._owner() and r.rolsuper
  union all
  select 'powerful_owner', 'warning', null, format('the owner of Notika, "%s", %s', r.rolname, concat_ws(', ',
           case when r.rolcreaterole then 'may create roles' end,
           case when r.rolcreatedb then 'may create databases' end,
           case when r.rolbypassrls then 'bypasses row security' end,
           case when r.rolreplication then 'may replicate' end)),
         format('alter role %I nocreaterole nocreatedb nobypassrls noreplication;', r.rolname)
    from pg_roles as r
   where r.rolname = notika._owner() and not r.rolsuper
     and (r.rolcreaterole or r.rolcreatedb or r.rolbypassrls or r.rolreplication)
  union all
  select 'guard_role', 'error', null,
         format('role "notika_guard", which owns the functions of the event triggers: %s', notika._guard_flaws()),
         'Correct that, then as an administrator: npx notika install'
   where notika._guard_flaws() is not null;
$$;

comment on function notika._surplus_rights() is
  'Rights that no part includes, and owners with more rights than they need.';
