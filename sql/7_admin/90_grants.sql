-- Runs last. Only the owner has rights until they are granted: without this, Postgres grants
-- EXECUTE on every new function to PUBLIC, and `alter default privileges` in a schema cannot
-- revoke that. install() does the rest.

do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid
      from pg_catalog.pg_proc as p
     cross join pg_catalog.aclexplode(
       coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))) as a
     where p.pronamespace = any (notika._own_schemas())
       and a.grantee = 0
       and p.proowner = (select r.oid from pg_catalog.pg_roles as r where r.rolname = current_user)
       -- Except for conditions: a trigger evaluates them as the role that writes.
       and p.proname !~ '^_passes_[0-9]+$'
  loop
    begin
      execute pg_catalog.format('revoke execute on routine %s from public', v_function);
    exception when insufficient_privilege then
      null; -- the schema of an argument can no longer be named, which install() reports
    end;
  end loop;
end;
$$;
