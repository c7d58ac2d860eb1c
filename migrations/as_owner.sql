-- Runs before the part of an upgrade that runs as the owner of Notika. A function with the owner's
-- rights cannot go back to those of the role that upgrades, as it could after SET ROLE: code that
-- the owner has put on its tables runs as the owner.

do $$
begin
  drop procedure if exists notika._as_owner(text);
  create procedure notika._as_owner(script text)
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
  as $as_owner$
  declare
    v_message text;
    v_detail text;
    v_hint text;
  begin
    execute script;
  exception when others then
    -- Raised again, because the context of an error contains the whole script.
    get stacked diagnostics
      v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
    if v_detail = '' and v_hint = '' then
      raise exception using errcode = sqlstate, message = v_message;
    elsif v_detail = '' then
      raise exception using errcode = sqlstate, message = v_message, hint = v_hint;
    elsif v_hint = '' then
      raise exception using errcode = sqlstate, message = v_message, detail = v_detail;
    end if;
    raise exception using errcode = sqlstate, message = v_message, detail = v_detail, hint = v_hint;
  end;
  $as_owner$;
  revoke execute on procedure notika._as_owner(text) from public;
  execute format('alter procedure notika._as_owner(text) owner to %I', current_setting('notika.owner'));
end;
$$;
