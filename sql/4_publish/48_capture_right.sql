-- Which roles besides Notika's owner may execute trigger functions. Creating or attaching a
-- partition gives it the triggers of the partitioned table, and requires the right to execute
-- their function. No other role needs this right: with it, it could forge events, or run the
-- function where it is not meant to run.

create or replace function notika._capture_rights(workflow_id integer, relation regclass)
  returns table (function regprocedure, grantee oid)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select distinct p.oid::regprocedure, c.relowner
      from pg_proc as p
     cross join notika._tables(_capture_rights.relation) as t (relation)
      join pg_class as c on c.oid = t.relation and c.relkind = 'p'
     where p.oid = to_regprocedure(format('notika._capture_%s()', _capture_rights.workflow_id))
       and c.relowner <> p.proowner;
end;
$$;

comment on function notika._capture_rights(integer, regclass) is
  'The roles that should have EXECUTE on the trigger function of a workflow: the owners of '
  'partitioned tables.';

create or replace function notika._capture_grants(workflow_id integer, relation regclass)
  returns setof text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  with due as (
    select r.function, r.grantee
      from notika._capture_rights(_capture_grants.workflow_id, _capture_grants.relation) as r
  ), granted as (
    select p.oid::regprocedure as function, a.grantee
      from pg_proc as p
     cross join aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) as a
     where p.oid = to_regprocedure(format('notika._capture_%s()', _capture_grants.workflow_id))
       and a.grantee <> p.proowner
  )
  (select format('revoke execute on function %s from %s', x.function,
                 case x.grantee when 0 then 'public' else x.grantee::regrole::text end)
     from (table granted except table due) as x)
  union all
  (select format('grant execute on function %s to %s', x.function, x.grantee::regrole)
     from (table due except table granted) as x);
$$;

comment on function notika._capture_grants(integer, regclass) is
  'The statements that give EXECUTE to exactly these roles; none if they have it.';

create or replace function notika._settle_capture_rights(workflow_id integer, relation regclass)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_statement text;
  v_count integer := 0;
begin
  for v_statement in
    select g
      from notika._capture_grants(_settle_capture_rights.workflow_id,
                                  _settle_capture_rights.relation) as g
  loop
    perform notika._suspend_guard(true);
    execute v_statement;
    perform notika._suspend_guard(false);
    v_count := v_count + 1;
  end loop;
  return v_count;
end;
$$;

comment on function notika._settle_capture_rights(integer, regclass) is
  'Gives the owners of partitioned tables alone the right to execute the trigger function of a '
  'workflow, and returns the number of changes.';

create or replace function notika._suspend_guard(busy boolean)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  if busy then
    insert into notika.guard_busy (pid) values (pg_backend_pid());
  else
    -- One of them: the caller is still using it.
    delete from notika.guard_busy as b where b.ctid = (select max(o.ctid) from notika.guard_busy as o);
  end if;
end;
$$;

comment on function notika._suspend_guard(boolean) is
  'Tells the guard that the following DDL is Notika''s own. A table, not a setting: any role may '
  'set a setting.';
