-- The verbs that give a role a part and take it back.

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
            hint = format('For example: select notika.%s_%s(''<role>'');', _do_grant.verb, _do_grant.part);
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
            detail = 'The owner has all of these rights.',
            hint = format('Name another role: select notika.grant_%s(''<role>'');', _do_grant.part);
  end if;
  insert into notika.grantee (role_id, role_name, part, granted_by)
  select r.oid, r.rolname, _do_grant.part, _do_grant.caller from pg_roles as r where r.oid = _do_grant.role
  on conflict do nothing;
  perform notika._settle_rights();
end;
$$;

comment on function notika._do_grant(name, text, text, oid) is
  'Gives a role a part and its rights, or takes it back, for a member of the owner.';

create or replace function notika.grant_publisher(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._submit_request('grant_publisher', jsonb_build_object('role', grant_publisher.role::oid));
end;
$$;

comment on function notika.grant_publisher(regrole) is
  'Lets a role publish tables that it may read and put triggers on, check migrations, and emit. '
  'It sees no payload and no run.';

create or replace function notika.revoke_publisher(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._submit_request('revoke_publisher', jsonb_build_object('role', revoke_publisher.role::oid));
end;
$$;

comment on function notika.revoke_publisher(regrole) is 'Takes the publisher''s part back.';

create or replace function notika.grant_runner(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._submit_request('grant_runner', jsonb_build_object('role', grant_runner.role::oid));
end;
$$;

comment on function notika.grant_runner(regrole) is
  'Lets a role run workflows: dispatch, run, retry, cancel, pause, backfill, replay. It publishes '
  'nothing, and reads only the part of the log that is in its jobs.';

create or replace function notika.revoke_runner(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._submit_request('revoke_runner', jsonb_build_object('role', revoke_runner.role::oid));
end;
$$;

comment on function notika.revoke_runner(regrole) is 'Takes the runner''s part back.';

create or replace function notika.grant_reader(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._submit_request('grant_reader', jsonb_build_object('role', grant_reader.role::oid));
end;
$$;

comment on function notika.grant_reader(regrole) is
  'Lets a role see events, runs and errors, payloads included, and change nothing.';

create or replace function notika.revoke_reader(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._submit_request('revoke_reader', jsonb_build_object('role', revoke_reader.role::oid));
end;
$$;

comment on function notika.revoke_reader(regrole) is 'Takes the reader''s part back.';

create or replace function notika.grant_monitor(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._submit_request('grant_monitor', jsonb_build_object('role', grant_monitor.role::oid));
end;
$$;

comment on function notika.grant_monitor(regrole) is
  'Lets a role see notika.lag, notika.run_counts, and notika.health without its texts. It sees no '
  'payload. Members of pg_monitor have this part from the start.';

create or replace function notika.revoke_monitor(role regrole)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._submit_request('revoke_monitor', jsonb_build_object('role', revoke_monitor.role::oid));
end;
$$;

comment on function notika.revoke_monitor(regrole) is 'Takes the monitor''s part back.';
