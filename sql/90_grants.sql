-- Runs last.  Nobody but the owner may do anything until somebody is granted it: default
-- privileges would give EXECUTE on every function to everybody, and `alter default privileges`
-- in a schema cannot take that away.

revoke all on schema notika from public;
revoke all on all tables in schema notika from public;
revoke all on all sequences in schema notika from public;
revoke execute on all functions in schema notika from public;

-- But for the conditions of workflows without pins: a trigger evaluates them as whoever writes.
do $$
declare
  v_function regprocedure;
begin
  for v_function in
    select p.oid
      from pg_catalog.pg_proc as p
     where p.pronamespace = 'notika'::pg_catalog.regnamespace and p.proname ~ '^_passes_[0-9]+$'
  loop
    execute pg_catalog.format('grant execute on function %s to public', v_function);
  end loop;
end;
$$;
