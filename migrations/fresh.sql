-- Runs after owner.sql in a first installation, as the role that installs. From here on the script
-- runs as the owner of Notika, by SET ROLE, in schemas into which no other role can have put
-- anything.

do $$
declare
  v_owner constant name := current_setting('notika.owner');
  v_found text;
  v_version text;
begin
  if to_regclass('notika.migration') is not null then
    -- Not by a call, because the owner of Notika decides what the function does.
    select substring(p.prosrc from '([0-9][0-9a-z.-]*)') into v_version
      from pg_proc as p
     where p.pronamespace = to_regnamespace('notika') and p.proname = 'version';
    raise exception 'notika is installed in this database already'
      using errcode = 'object_not_in_prerequisite_state',
            hint = format('This script is for a database without Notika. What an upgrade does is printed by: '
                          'npx notika sql --from %s', coalesce(v_version, '<version>'));
  end if;
  select coalesce(c.oid::regclass::text, p.oid::regprocedure::text, t.oid::regtype::text) into v_found
    from pg_namespace as n
    left join pg_class as c on c.relnamespace = n.oid
    left join pg_proc as p on p.pronamespace = n.oid
    left join pg_type as t on t.typnamespace = n.oid
   where n.nspname in ('notika', 'notika_worker') and num_nonnulls(c.oid, p.oid, t.oid) > 0
   limit 1;
  if found then
    raise exception 'cannot install notika: schemas notika and notika_worker are not empty, there is %', v_found
      using errcode = 'object_not_in_prerequisite_state',
            hint = 'Drop it, or install with: npx notika install';
  end if;

  if current_user <> v_owner then
    -- For schemas that existed before this transaction: their owner could put something into them
    -- while it runs, and that would run with the rights of the role that installs.
    begin
      drop schema notika, notika_worker;
      execute format('create schema notika authorization %I', v_owner);
      execute format('create schema notika_worker authorization %I', v_owner);
    exception when insufficient_privilege then
      raise exception 'cannot install notika as "%" into schemas of "%"', current_user, v_owner
        using errcode = 'insufficient_privilege',
              hint = format('Connect as %1$I, or run first: set role %1$I;', v_owner);
    end;
  end if;
  perform set_config('notika.installer', current_setting('role'), true);
  perform set_config('role', v_owner, true);
end;
$$;
