-- Requests: how a verb whose effect depends on its caller learns which role that is.
-- Such a verb runs with its caller's rights and inserts a request.  The column `caller` defaults to
-- current_user and no role may write it, so a caller cannot forge it; inside a SECURITY DEFINER
-- function the caller is the function's owner.  The trigger that carries out a request runs as the
-- owner of Notika, accepts only listed verbs, and checks that the caller may execute the verb.

create or replace view notika._request as
select null::text as verb,
       null::jsonb as args,
       null::name as caller,
       null::json as result;

comment on view notika._request is
  'Receives the requests of verbs whose effect depends on the caller. Has no rows.';

comment on column notika._request.verb is 'The name of the requested verb.';

comment on column notika._request.args is 'The arguments of the call.';

comment on column notika._request.caller is
  'The role that called the verb. Always the default, current_user: no role may write it.';

comment on column notika._request.result is
  'The result of the verb, returned by INSERT ... RETURNING.';

create or replace function notika._raise_without_context(
  state text,
  message text,
  detail text,
  hint text,
  context text
)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
begin
  -- The line of Notika that refused a call does not help the reader.  The context of an error that
  -- Notika did not raise does.
  if _raise_without_context.context !~ '^PL/pgSQL function notika\.[^\n]* at RAISE(\n|$)' then
    return false;
  elsif detail <> '' and hint <> '' then
    raise exception '%', message using errcode = state, detail = detail, hint = hint;
  elsif detail <> '' then
    raise exception '%', message using errcode = state, detail = detail;
  elsif hint <> '' then
    raise exception '%', message using errcode = state, hint = hint;
  end if;
  raise exception '%', message using errcode = state;
end;
$$;

comment on function notika._raise_without_context(text, text, text, text, text) is
  'Raises one of Notika''s own errors again without its context. Returns false if the error is not '
  'Notika''s.';

create or replace function notika._submit_request(verb text, args jsonb)
  returns json
  language plpgsql
  volatile
  security invoker -- so that the request has the caller's name
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_result json;
begin
  if not has_column_privilege('notika._request', 'verb', 'insert') then
    raise exception 'role "%" may not call notika.%', current_user, replace(verb, 'retry_failed', 'retry')
      using errcode = 'insufficient_privilege',
            detail = 'The role is neither a publisher nor a runner of Notika.',
            hint = format('Let a member of the owner of Notika run: select notika.grant_publisher(%1$L); or: '
                          'select notika.grant_runner(%1$L);', quote_ident(current_user));
  end if;
  insert into notika._request (verb, args)
  values (_submit_request.verb, _submit_request.args)
  returning result into v_result;
  return v_result;
end;
$$;

comment on function notika._submit_request(text, jsonb) is
  'Inserts the request of a verb as its caller and returns the result.';

create or replace function notika._submit_request_quietly(verb text, args jsonb)
  returns json
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_state text;
  v_message text;
  v_detail text;
  v_hint text;
  v_context text;
begin
  return notika._submit_request(_submit_request_quietly.verb, _submit_request_quietly.args);
exception when others then
  get stacked diagnostics
    v_state = returned_sqlstate, v_message = message_text, v_detail = pg_exception_detail,
    v_hint = pg_exception_hint, v_context = pg_exception_context;
  if notika._raise_without_context(v_state, v_message, v_detail, v_hint, v_context) then
    return null; -- never reached; as a statement of its own the call would add a line of context
  end if;
  raise;
end;
$$;

comment on function notika._submit_request_quietly(text, jsonb) is
  'Like _submit_request, but an error has no context. Not for verbs that take locks which '
  'notika.lag must attribute: the session that holds a lock taken in a subtransaction cannot be '
  'found.';
