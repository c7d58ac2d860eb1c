-- The version, and the roles that Notika asks about.
-- Names: a plain verb is public; a leading underscore is private; tables are singular, views
-- plural.
-- Every function pins its search_path to pg_catalog, pg_temp and writes every other name in full;
-- those of triggers, which publish makes, pin none and write every name in full.

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
  'The version of the SQL that is installed; the runner of the same version expects it.';

create or replace function notika._own_schemas()
  returns oid[]
  language sql
  stable
begin atomic
  select array['notika'::regnamespace, 'notika_worker'::regnamespace]::oid[];
end;

comment on function notika._own_schemas() is
  'The schemas that are Notika''s: its own and that of graphile-worker.';

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
  'The migrations that this database has, by which a runner knows whether it needs an upgrade.';

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
  'The SHA-256 of the code that is installed, all that an upgrade replaces as a whole.';

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
  'The role that the session acts as outside of SECURITY DEFINER functions: the last SET ROLE, or '
  'else the login. A guess, not a proof: nothing is allowed by it.';

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
  'Whether this is the session of a runner: of a member of the owner, or of who was granted to be one.';

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
  'The lock_timeout of a verb that waits this long at most: that of the session if it is stricter.';

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
            detail = format('Only members of "%s", the owner of Notika, may.', v_owner),
            hint = format('As a member: set role %I; or let an administrator run: grant %1$I to %I;',
                          v_owner, _expect_member.caller);
  end if;
end;
$$;

comment on function notika._expect_member(name, text) is
  'An error unless the caller is a member of the owner of Notika.';

create or replace function notika._owner()
  returns name
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select pg_get_userbyid(n.nspowner) from pg_namespace as n where n.nspname = 'notika';
$$;

comment on function notika._owner() is 'The role that owns Notika, also for code that runs as another.';
