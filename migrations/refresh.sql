-- Runs after an upgrade, outside of a transaction: brings the functions and triggers of each
-- published table to the installed version, each in a transaction of its own. notika.refresh()
-- does the same. This does not call it: between two transactions the owner of Notika may replace
-- it, and it would run with the rights of the role that upgrades. So each transaction creates the
-- procedure that runs the owner's code with the owner's rights, and drops it.

do $$
declare
  v_names pg_catalog.text[];
  v_name pg_catalog.text;
  v_result pg_catalog.json;
  v_try pg_catalog.int4 := 0;
  v_is_locked pg_catalog.bool;
  v_is_done pg_catalog.bool;
begin
  loop
    perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    perform set_config('client_min_messages', 'warning', true);
    drop procedure if exists notika._as_owner(text);
    execute format(
      'create procedure notika._as_owner(script text) language plpgsql security definer
         set search_path = pg_catalog, pg_temp as %L', 'begin execute script; end');
    revoke execute on procedure notika._as_owner(text) from public;
    execute format('alter procedure notika._as_owner(text) owner to %I',
                   (select pg_get_userbyid(n.nspowner) from pg_namespace as n where n.nspname = 'notika'));
    if v_names is null then
      call notika._as_owner(
        'select set_config(''notika.result'', coalesce(json_agg(c.name)::text, ''[]''), true)
           from notika._captured(true) as c');
      v_names := array(select json_array_elements_text(current_setting('notika.result')::json));
    else
      call notika._as_owner(format(
        'select set_config(''notika.result'', notika._do_refresh(%L)::text, true)', v_name));
      v_result := current_setting('notika.result')::json;
    end if;
    drop procedure notika._as_owner(text);
    -- This is evaluated before the commit, after which the search_path is that of the session
    -- again.
    v_is_locked := coalesce(v_result ->> 'outcome' = 'locked', false) and v_try < 20;
    if not v_is_locked and v_result ->> 'outcome' in ('locked', 'failed') then
      raise warning 'workflow "%" still captures as an earlier version of notika does: %',
        v_name, v_result ->> 'detail'
        using hint = 'Nothing is lost. A runner tries again each minute, and so does: call notika.refresh();';
    end if;
    if v_is_locked then
      v_try := v_try + 1;
    else
      v_is_done := v_names = '{}';
      v_name := v_names[1];
      v_names := v_names[2:];
      v_try := 0;
    end if;
    commit;
    exit when v_is_done;
    if v_is_locked then
      perform pg_catalog.pg_sleep(0.1);
    end if;
  end loop;
end;
$$;
