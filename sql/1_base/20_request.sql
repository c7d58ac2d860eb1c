-- Requests: how a verb that decides by its caller knows who that is.
-- Such a verb runs with its caller's rights and inserts a request.  The column `caller` has the
-- default current_user and nobody may write it, so it cannot be forged: through a SECURITY DEFINER
-- function of somebody's the caller is that somebody.  What carries a request out runs as the owner,
-- takes the verb from a list, and asks whether the caller may execute that verb.

create or replace view notika._request as
select null::text as verb,
       null::jsonb as args,
       null::name as caller,
       null::json as result;

comment on view notika._request is
  'Takes the requests of the verbs that decide by their caller; has no rows.';

comment on column notika._request.verb is 'The name of the verb.';

comment on column notika._request.args is 'What it was called with.';

comment on column notika._request.caller is 'The role that called it, by default; not to be written.';

comment on column notika._request.result is 'What it answers.';

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
  -- Where in Notika it was refused is of no use to anybody who reads it; of an error that Notika did
  -- not foresee it is.
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
  'Raises an error of Notika''s again, without the context in which it was raised; false: it is none.';

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
            detail = 'It is no publisher and no runner of Notika.',
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
  'Passes the request of a verb, as its caller, and returns the answer.';

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
    return null; -- which it never says: as a statement of its own it would be in the context, too
  end if;
  raise;
end;
$$;

comment on function notika._submit_request_quietly(text, jsonb) is
  'The same, and an error comes without its context. Not for verbs whose locks notika.lag has to name: '
  'of a lock that a subtransaction took nobody can tell the session.';
