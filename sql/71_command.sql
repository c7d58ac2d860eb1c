-- Which tables a command is about, told from its text: Postgres does not say before it has been run.
-- Good enough to let a command through, not for a verdict: a table that is not recognised stays
-- pinned, and one that the command is not about must never be taken for it.

create or replace function notika._commands(script text)
  returns text[]
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_token text;
  v_end text; -- what ends the string, name or comment that this is in
  v_depth integer;
  v_has_escapes boolean;
  v_last text := '';
  v_command text := '';
  v_commands text[] := array[]::text[];
begin
  for v_token in
    select m[1]
      from regexp_matches(
             script,
             $re$(--|/\*|\*/|''|'|"|\$(?:[[:alpha:]_][[:alnum:]_]*)?\$|;|\n|\\.|[[:alpha:]_][[:alnum:]_]*|[[:digit:] ,.()=<>:]+|.)$re$,
             'g') as m
  loop
    if v_end is null then
      if v_token = '--' then
        v_end := E'\n';
      elsif v_token = '/*' then
        v_end := '*/';
        v_depth := 1;
      elsif v_token = '''' then
        v_end := '''';
        v_has_escapes := lower(v_last) = 'e';
      elsif v_token like '$%$' and v_last !~ '^[[:alpha:]_]' then
        v_end := v_token;
      elsif v_token = ';' then
        v_commands := v_commands || v_command;
        v_command := '';
      else
        if v_token = '"' then
          v_end := '"';
        end if;
        v_command := v_command || v_token;
      end if;
    elsif v_end = '"' then
      v_command := v_command || v_token;
      if v_token = '"' then
        v_end := null;
      end if;
    elsif v_end = '*/' then
      v_depth := v_depth + case v_token when '/*' then 1 when '*/' then -1 else 0 end;
      if v_depth = 0 then
        v_end := null;
        v_command := v_command || ' ';
      end if;
    elsif v_token = v_end or v_end = '''' and v_token = '\''' and not v_has_escapes then
      v_command := v_command || case v_end when E'\n' then v_end else ''''' ' end;
      v_end := null;
    end if;
    v_last := v_token;
  end loop;
  return v_commands || v_command;
end;
$body$;

comment on function notika._commands(text) is
  'The commands in a text, without comments and with empty strings.';

create or replace function notika._current_command(query text, context text)
  returns text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_commands text[];
  v_moment text := statement_timestamp()::text;
  v_last text[];
  v_place integer := 1;
begin
  -- The innermost context comes first; a statement in a function is there word for word.
  if context <> '' then
    return (
      select c
        from unnest(notika._commands(
               substring(context from E'^SQL statement "(.*?)"\n(?:PL/pgSQL|SQL|extension)'))) as c
       limit 1
    );
  end if;

  select array_agg(u.command order by u.place) into v_commands
    from unnest(notika._commands(query)) with ordinality as u (command, place)
   where u.command ~* '^\s*(alter\s+table|drop\s+table|alter\s+type)\M';
  if cardinality(v_commands) > 1 then
    -- Several in one text are run one after the other, and this is called for each.
    v_last := regexp_match(current_setting('notika.command', true), '^(.*) #([0-9]+)$');
    if v_last[1] = v_moment then
      v_place := v_last[2]::integer + 1;
    end if;
    perform set_config('notika.command', format('%s #%s', v_moment, v_place), false);
  end if;
  return v_commands[v_place];
end;
$body$;

comment on function notika._current_command(text, text) is
  'The ALTER TABLE, DROP TABLE or ALTER TYPE that is about to be run; null: it cannot be told.';

create or replace function notika._named_tables(command text, path text)
  returns setof regclass
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_name constant text := $re$(?:"(?:[^"]|"")+"|[[:alpha:]_][\w$]*)$re$;
  v_list text := substring(
    command from '(?i)^\s*(?:alter\s+table|drop\s+table|alter\s+type)\s+(?:if\s+exists\s+)?(?:only\s+)?(.*)$');
  v_match text[];
  v_parts text[];
  v_schema text;
  v_relation oid;
begin
  loop
    v_match := regexp_match(
      v_list, format('^\s*(%1$s(?:\s*\.\s*%1$s)*)\s*(\*?)\s*(.*)$', v_name));
    exit when v_match is null;
    v_parts := parse_ident(v_match[1]);
    v_relation := null;
    if cardinality(v_parts) = 1 then
      foreach v_schema in array notika._schemas(path) loop
        select c.oid into v_relation
          from pg_class as c
          join pg_namespace as n on n.oid = c.relnamespace
         where n.nspname = v_schema and c.relname = v_parts[1];
        exit when v_relation is not null;
      end loop;
    else
      select c.oid into v_relation
        from pg_class as c
        join pg_namespace as n on n.oid = c.relnamespace
       where n.nspname = v_parts[cardinality(v_parts) - 1]
         and c.relname = v_parts[cardinality(v_parts)];
    end if;
    if v_relation is not null then
      return next v_relation;
    end if;
    exit when command !~* '^\s*drop' or v_match[3] !~ '^,';
    v_list := substr(v_match[3], 2);
  end loop;
end;
$body$;

comment on function notika._named_tables(text, text) is
  'The tables or type that such a command is about, found on this search path.';

create or replace function notika._schemas(path text)
  returns name[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
  -- Temporary tables first; "$user" is not the owner of the function that asks.
  select array(
           select n.nspname from pg_namespace as n where n.oid = pg_my_temp_schema()
         )
         || array(
           select case (parse_ident(m[1]))[1]
                    when '$user' then notika._caller() else (parse_ident(m[1]))[1] end
             from regexp_matches(_schemas.path, '("(?:[^"]|"")+"|[^", ]+)', 'g') with ordinality as p (m, place)
            order by p.place
         )::name[];
$body$;

comment on function notika._schemas(text) is 'The schemas on a search path, in the caller''s eyes.';
