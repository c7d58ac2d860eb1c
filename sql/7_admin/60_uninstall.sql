-- uninstall(): removes Notika completely, or says what prevents it. The owner need not own a
-- published table: the owner of a trigger's function may drop it, and the trigger is dropped with
-- it.

create or replace function notika._outside_dependents()
  returns setof text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with ours (classid, objid) as (
    select 'pg_class'::regclass::oid, c.oid from pg_class as c
     where c.relnamespace = any (notika._own_schemas())
    union all
    select 'pg_proc'::regclass, p.oid from pg_proc as p
     where p.pronamespace = any (notika._own_schemas())
    union all
    select 'pg_type'::regclass, t.oid from pg_type as t
     where t.typnamespace = any (notika._own_schemas())
  ), dependent as (
    select distinct d.classid, d.objid
      from ours as o
      join pg_depend as d on d.refclassid = o.classid and d.refobjid = o.objid and d.deptype = 'n'
  ), holder (classid, objid, namespace) as (
    -- A view depends through its rule, a default through the table of its column.
    select 'pg_class'::regclass::oid, c.oid, c.relnamespace
      from dependent as d
      left join pg_rewrite as r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
      left join pg_attrdef as a on d.classid = 'pg_attrdef'::regclass and a.oid = d.objid
      join pg_class as c
        on c.oid = coalesce(r.ev_class, a.adrelid,
                            case when d.classid = 'pg_class'::regclass then d.objid end)
    union
    select d.classid, p.oid, p.pronamespace
      from dependent as d
      join pg_proc as p on d.classid = 'pg_proc'::regclass and p.oid = d.objid
    union
    select d.classid, k.oid, k.connamespace
      from dependent as d
      join pg_constraint as k on d.classid = 'pg_constraint'::regclass and k.oid = d.objid
    union
    select d.classid, t.oid, c.relnamespace
      from dependent as d
      join pg_trigger as t on d.classid = 'pg_trigger'::regclass and t.oid = d.objid
       and t.tgname !~ '^notika_[0-9]+_(insert|update|delete|truncate)$'
      join pg_class as c on c.oid = t.tgrelid
  )
  select pg_describe_object(h.classid, h.objid, 0)
    from holder as h
   where h.namespace <> all (notika._own_schemas())
   order by 1;
$$;

comment on function notika._outside_dependents() is
  'Objects of others that depend on Notika''s tables, views and functions, and would be dropped '
  'with them.';

create or replace function notika._obstacles()
  returns table (obstacle text, detail text)
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('runner %s on %s', r.pid, r.host),
         format('alive, heard of %s seconds ago',
                extract(epoch from clock_timestamp() - r.seen_at)::integer)
    from notika.runner as r
   where r.seen_at > clock_timestamp() - interval '1 minute'
  union all
  select o, 'depends on Notika and would be dropped along'
    from notika._outside_dependents() as o;
$$;

comment on function notika._obstacles() is
  'What keeps uninstall from proceeding unless it is forced.';

create or replace function notika._drop_notika()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set client_min_messages = warning -- the drops that cascade are intended
as $$
begin
  perform notika._suspend_guard(true);
  -- The owner of a schema may drop the function of an event trigger in it, and the event trigger
  -- is dropped with it.
  drop function if exists notika._guard_start() cascade;
  drop function if exists notika._guard_end() cascade;
  drop function if exists notika._guard_drop() cascade;
  drop schema notika_worker cascade;
  drop schema notika cascade;
end;
$$;

comment on function notika._drop_notika() is
  'Drops all of Notika, itself included, with the rights of its owner.';

create or replace function notika.uninstall(dry_run boolean default false, force boolean default false)
  returns table (step text, outcome text, detail text)
  language plpgsql
  volatile
  security invoker -- as a member of the owner; no request: the view of requests is dropped too
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
  set client_min_messages = warning -- the drops that cascade are intended
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_owner constant name := notika._owner();
  v_role constant text := current_setting('role');
  v_is_other constant boolean := current_user <> v_owner;
  -- A role that existed before may have its rights for other reasons, and stays.
  v_is_ours constant boolean := coalesce((
    select shobj_description(r.oid, 'pg_authid') = 'Owns Notika. Made by notika install.'
      from pg_roles as r where r.rolname = v_owner), false);
  v_done constant text := case when dry_run then 'would be removed' else 'removed' end;
  v_kept constant text := 'another database needs it, or it has other rights';
  v_obstacles text;
  v_count bigint;
  v_workflows notika.workflow[];
  v_workflow notika.workflow;
  v_left text[];
  v_statement text;
  v_place text := 'notika';
begin
  -- Shorter than the second after which Postgres looks for deadlocks: if a writer and this wait
  -- for each other's tables, this gives up.
  perform set_config('lock_timeout', notika._lock_timeout('500ms'), true);
  if not pg_has_role(current_user, v_owner, 'member') then
    perform notika._expect_member(current_user, 'uninstall notika');
  end if;
  select string_agg(format('%s (%s)', o.obstacle, o.detail), '; ') into v_obstacles
    from notika._obstacles() as o;
  if v_obstacles is not null and not force and not dry_run then
    raise exception 'cannot uninstall notika: %', v_obstacles
      using errcode = 'object_in_use',
            detail = 'A runner that has stopped is forgotten immediately, one that died is forgotten within a minute.',
            hint = 'Stop the runners and drop what depends on Notika, or remove both: '
                   'select * from notika.uninstall(force => true);';
  end if;
  return query
    select o.obstacle, case when dry_run then 'in the way' else 'overridden' end, o.detail
      from notika._obstacles() as o;

  select count(*) into v_count
    from notika.runs as r
   where r.state not in ('done', 'failed', 'cancelled', 'expired');
  if v_count > 0 then
    return query select 'runs', 'lost', format('%s have not ended and never will', v_count);
  end if;
  select count(*) into v_count from notika.run_log;
  return query select 'history', v_done, format('the outcomes of %s runs', v_count);

  -- Everything is read before anything is dropped: a table that is being read cannot be dropped.
  v_workflows := array(
    select w from notika.workflow as w where w.unpublished_at is null order by w.name
  );
  v_left := array(
    select r.statement from notika._owner_revokes(v_owner, null, null) as r
     where not (select o.rolsuper from pg_roles as o where o.rolname = v_owner)
  );
  if not dry_run then
    set constraints all immediate; -- pending events of a trigger would keep its table
  end if;

  foreach v_workflow in array v_workflows loop
    v_place := coalesce(notika._quoted(v_workflow.relation), v_workflow.table_name);
    return query
      select format('workflow %s', v_workflow.name), v_done,
             format('triggers on %s', coalesce(string_agg(
               distinct notika._quoted(t.relation), ', '), 'nothing'))
        from notika._triggers(v_workflow.workflow_id) as t;
    if not dry_run then
      -- One by one, so that an error says which table is locked. With the owner's rights, to which
      -- a superuser changes for this.
      if v_is_other then
        perform set_config('role', v_owner, true);
      end if;
      perform notika._drop_captures(v_workflow.workflow_id);
      if v_is_other then
        perform set_config('role', v_role, true);
      end if;
    end if;
  end loop;

  v_place := 'notika';
  return query
    select format('event trigger %s', e.evtname), v_done, format('on %s', e.evtevent)
      from pg_event_trigger as e
      join pg_proc as p on p.oid = e.evtfoid and p.pronamespace = 'notika'::regnamespace
     order by e.evtname;
  return query
    select format('schema %s', s.name), v_done,
           (select format('%s tables and views', count(*))
              from pg_class as c
             where c.relnamespace = s.name::regnamespace and c.relkind in ('r', 'v'))
      from unnest('{notika_worker,notika}'::text[]) as s (name);
  if not dry_run then
    if v_is_other then
      perform set_config('role', v_owner, true);
    end if;
    perform notika._drop_notika();
    if v_is_other then
      perform set_config('role', v_role, true);
    end if;
  end if;

  -- From here on this function itself is gone, and only Postgres' own functions are called. The
  -- caller revokes what was created or granted for Notika alone, as far as it may; the roles are
  -- dropped if no other database needs them.
  foreach v_statement in array v_left loop
    step := 'left to an administrator';
    outcome := 'not removed';
    detail := v_statement || ';';
    if v_is_ours and dry_run and (select r.rolsuper from pg_roles as r where r.rolname = current_user) then
      step := 'right';
      outcome := v_done;
    elsif v_is_ours and v_is_other and not dry_run then
      begin
        execute v_statement;
        step := 'right';
        outcome := 'removed';
      exception when insufficient_privilege then
        null;
      end;
    end if;
    return next;
  end loop;
  if v_is_ours and v_is_other then
    foreach v_place in array array['notika_guard', v_owner] loop
      if dry_run then
        return query
          select format('role %s', v_place), case when o.is_needed then 'kept' else v_done end,
                 case when o.is_needed then v_kept else 'made by install' end
            from (
              select exists (
                select from pg_shdepend as d
                 where d.refclassid = 'pg_authid'::regclass and d.refobjid = r.oid and d.dbid <> 0
                   and d.dbid <> (select b.oid from pg_database as b where b.datname = current_database())
              )
                from pg_roles as r
               where r.rolname = v_place
            ) as o (is_needed);
        continue;
      end if;
      begin
        execute format('drop role if exists %I', v_place);
        return query select format('role %s', v_place), 'removed', 'made by install';
      exception
        when insufficient_privilege or dependent_objects_still_exist then
          return query select format('role %s', v_place), 'kept', v_kept;
      end;
    end loop;
  end if;
  perform set_config('lock_timeout', v_before, true);
exception when lock_not_available then
  raise exception 'cannot uninstall notika: % is locked', v_place
    using errcode = 'lock_not_available',
          detail = format('Gave up after %s; waiting longer would block the application. Nothing was '
                          'removed.', notika._lock_timeout('500ms')),
          hint = format('Try again. Sessions that hold it: select pid, mode, relation::regclass from pg_locks '
                        'where granted and %s;', case v_place
                          when 'notika' then 'relation::regclass::text like ''notika%'''
                          else format('relation = %L::regclass', v_place) end);
end;
$$;

comment on function notika.uninstall(boolean, boolean) is
  'Removes Notika: triggers, functions, event triggers, jobs, both schemas, and the roles that '
  'install created if no other database needs them. For members of the owner. Refuses while a '
  'runner is alive or other objects depend on it, unless forced. With dry_run, returns what it '
  'would do and changes nothing. What the caller may not revoke is returned as SQL.';
