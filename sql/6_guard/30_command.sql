-- Finds the objects that a command names by reading its text, because Postgres does not tell an
-- event trigger before the command runs.  This decides which pins to lift, never a verdict.  A
-- table that is not found stays pinned; a table that the command does not name must never be
-- returned.

create or replace function notika._culprit(tag text, objects text[], findings text[] default '{}')
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  v_words constant text[] := string_to_array(lower(tag), ' ');
  v_pattern constant text := format('(?i)^%s\M.*\m%s\M', v_words[1], v_words[cardinality(v_words)]);
  v_hints text[] := array(
    select w
      from unnest(findings) as f (finding)
     cross join lateral regexp_split_to_table(lower(f.finding), '[^\w$]+') as w
    union
    select h.word
      from unnest(findings) as f (finding)
      join (values ('column_dropped', 'drop'), ('table_dropped', 'drop'), ('type_changed', 'type'),
                   ('column_renamed', 'rename'), ('table_renamed', 'rename'), ('label_renamed', 'rename'))
             as h (kind, word) on h.kind = split_part(f.finding, ' ', 1)
  );
  v_found text[];
begin
  -- The text that the client sent may contain other statements, and secrets.  Splitting a long text
  -- for each of its commands would take too long.  If a backslash precedes a quote, the end of the
  -- string depends on the session's standard_conforming_strings, which is not known here.
  if length(current_query()) <= 4000 and strpos(current_query(), $$\'$$) = 0 then
    v_found := array(
      select s.bare
        from (
          select c.bare, rank() over (order by (
                   -- The number of words of the findings that the statement contains.
                   select count(distinct w)
                     from regexp_split_to_table(lower(c.bare), '[^\w$]+') as w
                    where w = any (v_hints)
                 ) desc) as place
            from notika._split(current_query()) as c
           where c.bare ~ v_pattern
             and exists (
               select from unnest(objects) as o (identity)
                cross join lateral regexp_split_to_table(lower(o.identity), '[^\w$]+') as w
                where w not in ('', 'on') and strpos(lower(c.bare), w) > 0
             )
        ) as s
       where s.place = 1
       limit 2
    );
  end if;
  return left(case cardinality(v_found) when 1 then v_found[1]
                                        else concat_ws(' ', tag, objects[1]) end, 400);
end;
$body$;

comment on function notika._culprit(text, text[], text[]) is
  'The text of the command with this tag and these objects, bare: without comments and with empty '
  'strings. If several statements match, the one that mentions the findings; if none or more than '
  'one does, the tag and the first object.';

create or replace function notika._named_tables(command text, path text)
  returns setof regclass
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  v_name constant text := $re$(?:"(?:[^"]|"")+"|[[:alpha:]_][\w$]*)$re$;
  v_list text := substring(
    command from '(?i)^\s*(?:alter\s+table|drop\s+table|alter\s+type)\s+(?:if\s+exists\s+)?(?:only\s+)?(.*)$');
  v_is_drop constant boolean := command ~* '^\s*drop';
  v_match text[];
  v_parts text[];
  v_schema text;
  v_schemas name[] := notika._schemas(path);
  v_relation oid;
begin
  -- One pass over the list: each name, and whether a comma follows.
  for v_match in
    select m from regexp_matches(
      v_list, format('\s*(%1$s(?:\s*\.\s*%1$s)*)\s*\*?\s*(,?)', v_name), 'g') as m
  loop
    v_parts := parse_ident(v_match[1]);
    v_relation := null;
    if cardinality(v_parts) = 1 then
      foreach v_schema in array v_schemas loop
        v_relation := notika._relation(v_schema, v_parts[1]);
        exit when v_relation is not null;
      end loop;
    else
      v_relation := notika._relation(
        v_parts[cardinality(v_parts) - 1], v_parts[cardinality(v_parts)]);
    end if;
    if v_relation is not null then
      return next v_relation;
    end if;
    exit when not v_is_drop or v_match[2] = '';
  end loop;
end;
$body$;

comment on function notika._named_tables(text, text) is
  'The tables or the type that such a command names, found on this search path.';

create or replace function notika._named_schemas(command text)
  returns setof text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
  select notika._names(
    substring(_named_schemas.command from '(?i)^drop\s+schema\s+(?:if\s+exists\s+)?(.*)\mcascade$'));
$body$;

comment on function notika._named_schemas(text) is
  'The schemas that a DROP SCHEMA ... CASCADE names.';

create or replace function notika._named_owners(command text)
  returns setof text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
  select case n when 'current_user' then notika._session_role() when 'current_role' then notika._session_role()
                when 'session_user' then session_user else n end
    from notika._names(
      substring(_named_owners.command
                from '(?i)^drop\s+owned\s+by\s+(.*?)\s*(?:\mcascade|\mrestrict)?$')) as n;
$body$;

comment on function notika._named_owners(text) is 'The roles that a DROP OWNED names.';

create or replace function notika._statement_of(workflow_id integer, kind text, object text, otherwise text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- The first command after which the finding lasted until the end.  The object of the finding may
  -- have been renamed meanwhile, so the second pattern matches the kind alone.
  return coalesce((
    select p.statement
      from unnest(array[concat_ws(' ', _statement_of.kind, _statement_of.object), _statement_of.kind || ' %'])
             with ordinality as l (pattern, place)
     cross join lateral (
       select o.statement, o.pending_id
         from notika.guard_pending as o
        where o.workflow_id = _statement_of.workflow_id
          and o.pending_id > coalesce((
            select max(k.pending_id)
              from notika.guard_pending as k
             where k.workflow_id = o.workflow_id and k.found is not null and not exists (
               select from unnest(k.found) as f (finding)
                where case l.place when 1 then f.finding = l.pattern else f.finding like l.pattern end
             )
          ), 0)
        order by o.pending_id
        limit 1
     ) as p
     order by l.place
     limit 1
  ), _statement_of.otherwise);
end;
$$;

comment on function notika._statement_of(integer, text, text, text) is
  'The command of this transaction that led to a finding about a workflow; otherwise: if none is '
  'known.';
