-- Splits SQL text into statements, and finds the statement that is running.

create or replace function notika._split(script text)
  returns table (line integer, statement text, bare text)
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  v_token text;
  v_last text := '';
  v_end text; -- what ends the string, name or comment that this is in
  v_depth integer;
  v_has_escapes boolean;
  v_is_continued boolean := false; -- whether a quote would continue the string before it
  v_word text := '';
  v_body integer := 0; -- how many BEGIN ATOMIC and CASE are open
  v_open integer := 0; -- how many parentheses
  v_line integer := 1;
  v_whole text[] := array[]::text[];
  v_bare text[] := array[]::text[];
begin
  for v_token in
    select m[1]
      from regexp_matches(
             script,
             $re$(--|/\*|\*/|''|'|"|\$(?:[^\x01-@\[-^`{-\x7f][^\x01-/:-@\[-^`{-\x7f]*)?\$|;|\n|\\['\\]|[^\x01-@\[-^`{-\x7f][^\x01-/:-@\[-^`{-\x7f]*|[[:digit:] ,.()=<>:]+|.)$re$,
             'g') as m
    union all
    select null -- the end of the text, also in the middle of a string
  loop
    if v_token is null or v_end is null and v_token = ';' and v_body = 0 and v_open = 0 then
      bare := btrim(array_to_string(v_bare, ''), E' \t\r\n');
      statement := rtrim(array_to_string(v_whole, ''), E' \t\r\n');
      if v_token is null and v_end <> E'\n' and statement = '' then
        line := v_line;
        statement := '/*'; -- a comment that is not closed
      end if;
      -- Return an unclosed string or comment too: Postgres reports the error.
      if bare <> '' or v_token is null and v_end <> E'\n' then
        return next;
      end if;
      v_whole := array[]::text[];
      v_bare := array[]::text[];
      v_word := '';
      v_body := 0;
      v_open := 0;
      v_is_continued := false;
      continue;
    end if;

    if v_end is null then
      if v_token = '--' then
        v_end := E'\n';
      elsif v_token = '/*' then
        v_end := '*/';
        v_depth := 1;
      elsif v_token in ('''', '''''') then
        v_has_escapes := lower(v_last) = 'e' or v_is_continued and v_has_escapes;
        if v_token = '''' then
          v_end := '''';
        else
          v_bare := v_bare || v_token;
          v_is_continued := true;
        end if;
      elsif v_token like '$%$' and v_last !~ '^[^\x01-@\[-^`{-\x7f]' then
        v_end := v_token;
      else
        if v_token = '"' then
          v_end := '"';
        elsif lower(v_token) in ('begin', 'atomic', 'case', 'end', 'as') then
          -- A semicolon inside BEGIN ATOMIC does not end the statement.
          if v_body = 0 and v_word = 'begin' and lower(v_token) = 'atomic' then
            v_body := 1;
          elsif v_body > 0 and v_word <> 'as' and right(v_last, 1) <> '.' then
            v_body := v_body + case lower(v_token) when 'case' then 1 when 'end' then -1 else 0 end;
          end if;
          v_word := lower(v_token);
        elsif v_word <> '' and v_token ~ '\S' then
          v_word := '';
        end if;
        -- Nor does one between the commands of a rule, which are in parentheses.
        v_open := greatest(0, v_open + length(replace(v_token, ')', '')) - length(replace(v_token, '(', '')));
        v_bare := v_bare || v_token;
        v_is_continued := v_is_continued and v_token !~ '\S';
      end if;
      -- A statement begins with its first word, not with spaces or comments.
      if cardinality(v_whole) = 0 and v_token ~ '\S' and v_token not in ('--', '/*') then
        line := v_line;
        v_token := ltrim(v_token);
        v_whole := array[v_token];
      elsif cardinality(v_whole) > 0 then
        v_whole := v_whole || v_token;
      end if;
    else
      if cardinality(v_whole) > 0 then
        v_whole := v_whole || v_token;
      end if;
      if v_end = '"' then
        v_bare := v_bare || v_token;
        if v_token = '"' then
          v_end := null;
        end if;
      elsif v_end = '*/' then
        v_depth := v_depth + case v_token when '/*' then 1 when '*/' then -1 else 0 end;
        if v_depth = 0 then
          v_end := null;
          v_bare := v_bare || ' '::text;
        end if;
      elsif v_token = v_end or v_end = '''' and v_token = '\''' and not v_has_escapes then
        v_bare := v_bare || case v_end when E'\n' then v_end else ''''' ' end;
        v_is_continued := v_end = '''' or v_end = E'\n' and v_is_continued;
        v_end := null;
      end if;
    end if;
    if v_token = E'\n' then
      v_line := v_line + 1;
    end if;
    v_last := v_token;
  end loop;
end;
$body$;

comment on function notika._split(text) is
  'The statements of an SQL text, each with the line it begins on and, as bare, without comments '
  'and with empty strings.';

create or replace function notika._current_command(query text, context text)
  returns text
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  v_function text[] := regexp_match(context, E'^SQL function "([^\n]*)" statement ([0-9]+)(?:\n|$)');
  v_script text;
  v_moment text := format('%s %s', statement_timestamp(), hashtext(query));
  v_commands json;
  v_last text[];
  v_place integer := 1;
begin
  -- The innermost context comes first: the text of a statement, or the name of an SQL function.
  -- That name has no schema; if several functions share it, take the one that the caller names.
  if v_function is not null then
    select case when count(*) = 1 then min(f.prosrc)
                when count(*) filter (where f.is_called) = 1
                  then min(f.prosrc) filter (where f.is_called) end
      into v_script
      from (
        select p.prosrc,
               strpos(concat(query, context), format('%I.%I', n.nspname, p.proname)) > 0 as is_called
          from pg_proc as p
          join pg_namespace as n on n.oid = p.pronamespace
          join pg_language as l on l.oid = p.prolang and l.lanname = 'sql'
         where p.proname = v_function[1]
      ) as f;
    return (
      select s.bare
        from notika._split(v_script) with ordinality as s (line, statement, bare, place)
       where s.place = v_function[2]::integer
    );
  elsif context <> '' then
    v_script := substring(context from E'^SQL statement "(.*?)"\n(?:PL/pgSQL|SQL|extension)');
    return coalesce(
      -- For a long text, the beginning is enough if the first statement ends in it.
      (
        select min(s.bare) filter (where s.place = 1)
          from notika._split(left(v_script, 10000))
               with ordinality as s (line, statement, bare, place)
         where length(v_script) > 10000
        having count(*) > 1
      ),
      (select s.bare from notika._split(v_script) as s limit 1)
    );
  end if;

  -- The statements of one text run one after the other; each calls this function, so count the
  -- calls.
  v_last := regexp_match(current_setting('notika.command', true), '^(.*) #([0-9]+)$');
  if v_last[1] = v_moment then
    v_commands := current_setting('notika.commands')::json;
    v_place := least(v_last[2]::integer + 1, json_array_length(v_commands));
  else
    select json_agg(case when s.bare ~* '\m(drop|type)\M' then s.bare end order by s.place)
      into v_commands
      from notika._split(query) with ordinality as s (line, statement, bare, place)
     where s.bare ~* '^(alter\s+table|alter\s+type|drop\s+table|drop\s+owned|drop\s+schema)\M';
    perform set_config('notika.commands', coalesce(v_commands, '[]')::text, false);
  end if;
  perform set_config('notika.command', format('%s #%s', v_moment, v_place), false);
  return v_commands ->> v_place - 1;
end;
$body$;

comment on function notika._current_command(text, text) is
  'The command that is about to run, bare; null: the command is unknown, or it neither drops nor '
  'changes a type.';
