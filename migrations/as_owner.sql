-- Runs before what an upgrade does as the owner of Notika.
-- Within a function with the owner's rights nothing can go back to those of the role that upgrades, as it
-- could after SET ROLE: whatever the owner has put on its tables runs as the owner.

do $$
begin
  drop procedure if exists notika._as_owner(text);
  create procedure notika._as_owner(script text)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
  as 'begin execute script; end';
  revoke execute on procedure notika._as_owner(text) from public;
  execute format('alter procedure notika._as_owner(text) owner to %I', current_setting('notika.owner'));
end;
$$;
