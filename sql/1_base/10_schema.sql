-- The version of the installation, and the roles that Notika checks: its owner, a runner, a caller.
-- Names: a plain verb is public, a leading underscore is private; tables are singular, views
-- plural.
-- Every function sets search_path to pg_catalog, pg_temp and qualifies all other names.  The
-- trigger functions that publish creates do not set it, because that costs time for each row; they
-- qualify every name.

comment on schema notika is
  'Notika: runs workflows from row changes. Start with notika.publish(workflow, table).';

create or replace function notika.version()
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select '0.1.0';
$$;

comment on function notika.version() is
  'The version of the installed SQL. A runner requires it to be its own version.';

create or replace function notika._own_schemas()
  returns oid[]
  language sql
  stable
begin atomic
  select array['notika'::regnamespace, 'notika_worker'::regnamespace]::oid[];
end;

comment on function notika._own_schemas() is
  'The schemas notika and notika_worker, which is graphile-worker''s.';

create or replace function notika._migrations()
  returns text[]
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return array(select m.name from notika.migration as m where m.name <> 'code' order by m.name);
end;
$$;

comment on function notika._migrations() is
  'The names of the applied migrations, by which a runner decides whether the database needs an '
  'upgrade.';

create or replace function notika._code()
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (select m.hash from notika.migration as m where m.name = 'code');
end;
$$;

comment on function notika._code() is
  'The SHA-256 of the installed code, which an upgrade replaces as a whole.';

create or replace function notika._session_role()
  returns name
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case current_setting('role')
           when 'none' then session_user
           else current_setting('role')::name
         end;
$$;

comment on function notika._session_role() is
  'The role in which the session runs outside of SECURITY DEFINER functions: that of the last SET '
  'ROLE, or the login role. A caller can change it, so it grants nothing.';

create or replace function notika._is_runner()
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select pg_has_role(session_user, current_user, 'member')
      or has_function_privilege(session_user, 'notika._finish(json)', 'execute');
$$;

comment on function notika._is_runner() is
  'Whether the session belongs to a runner: its login role is a member of the owner of Notika, or '
  'was made a runner.';

create or replace function notika._lock_timeout(most text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case when l.setting::interval between '1 ms' and most::interval then l.setting else most end
    from current_setting('lock_timeout') as l (setting);
$$;

comment on function notika._lock_timeout(text) is
  'The lock_timeout for a verb that waits at most this long: the session''s if that is shorter.';

create or replace function notika._is_member(role name)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select pg_has_role(_is_member.role, n.nspowner, 'member')
    from pg_namespace as n
   where n.nspname = 'notika';
$$;

comment on function notika._is_member(name) is 'Whether a role is a member of the owner of Notika.';

create or replace function notika._expect_member(caller name, what text)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner name := (select pg_get_userbyid(n.nspowner) from pg_namespace as n where n.nspname = 'notika');
begin
  if not notika._is_member(_expect_member.caller) then
    raise exception 'role "%" may not %', _expect_member.caller, _expect_member.what
      using errcode = 'insufficient_privilege',
            detail = format('Only members of "%s", the owner of Notika, may do that.', v_owner),
            hint = format('As a member, run: set role %I; or let an administrator run: '
                          'grant %1$I to %I;', v_owner, _expect_member.caller);
  end if;
end;
$$;

comment on function notika._expect_member(name, text) is
  'Raises an error unless the caller is a member of the owner of Notika.';

create or replace function notika._owner()
  returns name
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select pg_get_userbyid(n.nspowner) from pg_namespace as n where n.nspname = 'notika';
$$;

comment on function notika._owner() is
  'The owner of Notika, also for code that runs as another role.';
