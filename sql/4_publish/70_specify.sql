-- From the arguments of publish to a workflow: every name is looked up, every right is checked.

create or replace function notika._find_table(spec notika.workflow)
  returns regclass
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_parts text[];
  v_class pg_class;
  v_kind text;
  v_instead text;
  v_corrected notika.workflow := _find_table.spec;
begin
  begin
    v_parts := parse_ident(spec.table_name);
  exception when invalid_parameter_value or null_value_not_allowed then
    v_parts := null;
  end;

  if cardinality(v_parts) = 2 then
    select c.* into v_class
      from pg_class as c
     where c.oid = notika._relation(v_parts[1], v_parts[2]);
  end if;

  if v_class.oid is null then
    select notika._quoted(c.oid) into v_instead
      from pg_class as c
     where c.relkind in ('r', 'p')
       and c.relpersistence <> 't'
       and not notika._is_reserved(c.relnamespace)
       and left(translate(lower(c.relname), '_', ''), 4)
           = left(translate(lower(v_parts[cardinality(v_parts)]), '_', ''), 4)
     order by lower(c.relname) <> lower(v_parts[cardinality(v_parts)]),
              abs(length(c.relname) - length(v_parts[cardinality(v_parts)])), c.relname
     limit 1;
    v_corrected.table_name := coalesce(v_instead, '<schema>.<table>');

    if v_parts is null or cardinality(v_parts) <> 2 then
      raise exception 'table name "%" does not name a schema and a table', spec.table_name
        using errcode = 'invalid_name',
              detail = 'Names are not looked up on the search path.',
              hint = 'Write: ' || notika._publish_call(v_corrected);
    end if;
    raise exception 'table "%" does not exist', spec.table_name
      using errcode = 'undefined_table',
            detail = format('Workflow "%s" was to be published on it.', spec.name),
            hint = case when v_instead is null
                        then 'The tables of a schema: select * from pg_tables where schemaname = '
                             || quote_literal(v_parts[1]) || ';'
                        else 'Did you mean: ' || notika._publish_call(v_corrected) end;
  end if;

  v_kind := case v_class.relkind
              when 'v' then 'view' when 'm' then 'materialized view' when 'f' then 'foreign table'
              when 'S' then 'sequence' when 'c' then 'composite type'
              when 'i' then 'index' when 'I' then 'index' when 't' then 'toast table'
            end;
  if v_kind is not null then
    select notika._quoted(t.oid) into v_instead
      from pg_rewrite as r
      join pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
       and d.refclassid = 'pg_class'::regclass and d.refobjid <> v_class.oid
      join pg_class as t on t.oid = d.refobjid and t.relkind in ('r', 'p')
     where r.ev_class = v_class.oid and not notika._is_reserved(t.relnamespace)
     order by 1
     limit 1;
    v_corrected.table_name := coalesce(v_instead, '<schema>.<table>');
    raise exception 'cannot publish on % "%"', v_kind, spec.table_name
      using errcode = 'wrong_object_type',
            detail = 'Only the rows of a table have triggers for each row.',
            hint = 'Publish on a table: ' || notika._publish_call(v_corrected);
  end if;

  if v_class.relpersistence = 't' or notika._is_reserved(v_class.relnamespace) then
    raise exception 'cannot publish on "%"', spec.table_name
      using errcode = 'wrong_object_type',
            detail = 'System tables, temporary tables and Notika''s own are not published.',
            hint = 'Publish on a table of the application.';
  end if;
  return v_class.oid;
end;
$$;

comment on function notika._find_table(notika.workflow) is 'The table to publish on, or an error.';

create or replace function notika._check_columns(spec notika.workflow, what text, names text[])
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_column text;
  v_known text[];
  v_corrected notika.workflow := _check_columns.spec;
begin
  select array_agg(a.attname order by a.attnum) into v_known
    from pg_attribute as a
   where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped;

  foreach v_column in array coalesce(names, '{}') loop
    continue when v_column = any (v_known);
    -- A misspelled name often differs only by its case or an underscore.
    names := array(
      select k.name
        from unnest(names) with ordinality as n (name, place)
        join unnest(v_known) as k (name)
          on k.name = n.name
          or n.name <> all (v_known)
         and lower(translate(k.name, '_', '')) = lower(translate(n.name, '_', ''))
       group by k.name
       order by min(n.place)
    );
    if what = 'columns' then
      v_corrected.columns := nullif(names, '{}');
    else
      v_corrected.watch := nullif(names, '{}');
    end if;
    raise exception 'column "%" of table % does not exist',
      coalesce(v_column, 'null'), spec.table_name
      using errcode = 'undefined_column',
            detail = format('Its columns are %s.', array_to_string(v_known, ', ')),
            hint = format('Correct %s, for example: %s', what, notika._publish_call(v_corrected));
  end loop;

  if names = '{}' then
    raise exception '% of workflow "%" is empty', what, spec.name
      using errcode = 'invalid_parameter_value',
            hint = 'Leave it out for '
                   || case what when 'columns' then 'the whole row: ' else 'any update: ' end
                   || notika._publish_call(v_corrected);
  end if;

  -- Virtual columns are computed when they are read, and a trigger gets the row as it is stored.
  if what = 'columns' and current_setting('server_version_num')::integer >= 180000 then
    for v_column in
      select a.attname
        from pg_attribute as a
       where a.attrelid = spec.relation and a.attgenerated = 'v' and not a.attisdropped
         and (names is null or a.attname = any (names))
    loop
      raise warning 'column "%" of table % is virtual and always null in events',
        v_column, spec.table_name
        using hint = 'Publish the columns it is computed from, or make it stored.';
    end loop;
  end if;
end;
$$;

comment on function notika._check_columns(notika.workflow, text, text[]) is
  'Refuses columns that the table does not have.';

create or replace function notika._check_rights(spec notika.workflow, caller name)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_columns text;
begin
  if not has_schema_privilege(caller, (
    select c.relnamespace from pg_class as c where c.oid = spec.relation
  ), 'usage') then
    raise exception 'role "%" may not use the schema of table %', caller, spec.table_name
      using errcode = 'insufficient_privilege',
            hint = format('Run: grant usage on schema %I to %I;', (parse_ident(spec.table_name))[1], caller);
  end if;
  if not has_table_privilege(caller, spec.relation, 'trigger') then
    raise exception 'role "%" may not create triggers on table %', caller, spec.table_name
      using errcode = 'insufficient_privilege',
            hint = format('Run: grant trigger on %s to %I;', spec.table_name, caller);
  end if;

  -- Publishing shows the rows to readers of events, so it requires a role that may read them.
  if spec.columns is null then
    if not has_table_privilege(caller, spec.relation, 'select') then
      raise exception 'role "%" may not read table %', caller, spec.table_name
        using errcode = 'insufficient_privilege',
              hint = format('Run: grant select on %s to %I;', spec.table_name, caller);
    end if;
  else
    select string_agg(format('%I', k.name), ', ') into v_columns
      from unnest(spec.columns || spec.watch) as k (name)
     where not has_column_privilege(caller, spec.relation, k.name, 'select');
    if v_columns is not null then
      raise exception 'role "%" may not read % of table %', caller, v_columns, spec.table_name
        using errcode = 'insufficient_privilege',
              hint = format('Run: grant select (%s) on %s to %I;', v_columns, spec.table_name, caller);
    end if;
  end if;
end;
$$;

comment on function notika._check_rights(notika.workflow, name) is
  'Refuses to publish a table for a caller that may not create a trigger on it, or read it.';

create or replace function notika._check_match(spec notika.workflow, match text[])
  returns text[]
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_corrected notika.workflow := _check_match.spec;
  v_match text[] := array(
    select regexp_replace(m, '^\s*(.*?)\s*(=)\s*(.*?)\s*$', '\1\2\3')
      from unnest(_check_match.match) as m
     order by 1
  );
  v_known text[];
  v_key text;
  v_workflow notika.workflow;
begin
  if v_match = '{}' then
    return null;
  end if;
  if notika._workflow_of(spec.name) is null then
    v_corrected.name := left(spec.name, 63) || ':change';
    v_corrected.match := v_match;
    raise exception 'match of workflow "%" has no meaning', spec.name
      using errcode = 'invalid_parameter_value',
            detail = 'Only a source of a workflow, for which its runs wait, has one.',
            hint = 'For example: ' || notika._publish_call(v_corrected);
  end if;
  if cardinality(v_match) > 8 then
    raise exception 'match of source "%" has more than 8 columns', spec.name
      using errcode = 'invalid_parameter_value',
            hint = 'Compare the columns that distinguish the rows.';
  end if;

  select array_agg(a.attname order by a.attnum) into v_known
    from pg_attribute as a
   where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped;
  foreach v_key in array notika._match_keys(v_match) loop
    continue when v_key = any (spec.columns);
    if v_key = any (v_known) then
      v_corrected.columns := case when spec.columns is null then v_known
                                  else spec.columns || v_key end;
      v_corrected.match := v_match;
      raise exception 'match of source "%" has "%", which is not among its columns',
        spec.name, v_key
        using errcode = 'invalid_parameter_value',
              detail = 'A compared column must be published by its name, so that the guard protects it.',
              hint = 'Publish it: ' || notika._publish_call(v_corrected);
    end if;
    v_corrected.match := array_remove(v_match, v_key);
    raise exception 'column "%" of table % does not exist', coalesce(v_key, 'null'), spec.table_name
      using errcode = 'undefined_column',
            detail = format('Its columns are %s.', array_to_string(v_known, ', ')),
            hint = 'Correct match, for example: ' || notika._publish_call(v_corrected);
  end loop;

  if spec.name not like '%:cancel' then
    select m into v_key from unnest(v_match) as m where m like '%=%' limit 1;
    if found then
      v_corrected.match := notika._match_keys(v_match);
      raise exception 'match of source "%" has "%"', spec.name, v_key
        using errcode = 'invalid_parameter_value',
              detail = 'A wait itself gives the values to compare with; only a source called cancel names '
                       'columns of the run''s own event.',
              hint = 'Write: ' || notika._publish_call(v_corrected);
    end if;
    return v_match;
  end if;

  select w.* into v_workflow
    from notika.workflow as w
   where w.name = notika._workflow_of(spec.name) and w.unpublished_at is null;
  if found then
    v_corrected.match := v_match;
    perform notika._check_cancel(v_workflow, v_corrected);
  end if;
  return v_match;
end;
$$;

comment on function notika._check_match(notika.workflow, text[]) is
  'The columns that a source compares, in order, or an error if one is not among its columns.';

create or replace function notika._check_cancel(spec notika.workflow, source notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_corrected notika.workflow := _check_cancel.spec;
  v_key text;
begin
  select k into v_key
    from unnest(notika._run_keys(source.match)) as k
   where not case
           when spec.columns is not null then k = any (spec.columns)
           else exists (
             select from pg_attribute as a
              where a.attrelid = spec.relation
                and a.attname = k and a.attnum > 0 and not a.attisdropped
           )
         end;
  if found then
    v_corrected.columns := spec.columns || v_key;
    raise exception 'source "%" compares with "%", which workflow "%" does not publish',
      source.name, v_key, spec.name
      using errcode = 'invalid_parameter_value',
            detail = format('Of the source it is compared with %s.',
                            array_to_string(notika._match_keys(source.match), ', ')),
            hint = case when spec.columns is not null
                        then 'Publish it, or unpublish the source first: '
                             || notika._publish_call(v_corrected)
                        else 'Name a column of the table: match => ''{'
                             || (notika._match_keys(source.match))[1] || '=id}''.' end;
  end if;
end;
$$;

comment on function notika._check_cancel(notika.workflow, notika.workflow) is
  'Refuses a source that cancels runs by a column that their events do not carry.';

create or replace function notika._specify(
  caller name,
  workflow text,
  table_name text,
  operations text[],
  columns text[],
  watch text[],
  condition text,
  function oid,
  guard text,
  on_rename text,
  match text[]
)
  returns notika.workflow
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_spec notika.workflow;
  v_corrected notika.workflow;
begin
  v_spec.name := _specify.workflow;
  v_spec.table_name := _specify.table_name;
  v_spec.condition := nullif(btrim(_specify.condition), '');
  v_spec.guard := _specify.guard;
  v_spec.on_rename := _specify.on_rename;
  select array_agg(k.name order by k.place) into v_spec.columns
    from (
      select u.name, min(u.place) as place
        from unnest(_specify.columns) with ordinality as u (name, place)
       group by u.name
    ) as k;
  select array_agg(distinct u.name) into v_spec.watch from unnest(_specify.watch) as u (name);
  select array_agg(o.name order by o.place) into v_spec.operations
    from unnest('{insert,update,delete}'::text[]) with ordinality as o (name, place)
   where o.name = any (select lower(btrim(u)) from unnest(_specify.operations) as u);

  v_corrected := v_spec;
  if v_spec.name is null or v_spec.name !~ '^[A-Za-z][A-Za-z0-9_-]{0,62}(:[A-Za-z][A-Za-z0-9_-]{0,62})?$'
  then
    v_corrected.name := coalesce(
      nullif(btrim(regexp_replace(left(v_spec.name, 63), '[^A-Za-z0-9_-]+', '_', 'g'), '_'), ''),
      'my_workflow');
    if v_corrected.name ~ '^[^A-Za-z]' then
      v_corrected.name := left('w' || v_corrected.name, 63);
    end if;
    raise exception 'workflow name "%" is not valid', coalesce(v_spec.name, 'null')
      using errcode = 'invalid_name',
            detail = 'It is the name of the task''s file: up to 63 letters, digits, _ and -, '
                     'of which the first is a letter. What its runs wait for is published '
                     'as workflow:source.',
            hint = 'For example: ' || notika._publish_call(v_corrected);
  end if;

  if v_spec.operations is null
     or exists (
       select from unnest(_specify.operations) as u
        where coalesce(lower(btrim(u)) <> all ('{insert,update,delete}'), true)
     )
  then
    v_corrected.operations := coalesce(v_spec.operations, '{insert}');
    raise exception 'operations % of workflow "%" are not valid',
      coalesce(_specify.operations::text, 'null'), v_spec.name
      using errcode = 'invalid_parameter_value',
            detail = 'At least one of insert, update and delete is needed; truncate has no rows.',
            hint = 'For example: ' || notika._publish_call(v_corrected);
  end if;
  if v_spec.guard is null or v_spec.guard not in ('block', 'warn', 'off') then
    v_corrected.guard := 'block';
    raise exception 'guard "%" is not block, warn or off', coalesce(v_spec.guard, 'null')
      using errcode = 'invalid_parameter_value',
            hint = 'For example: ' || notika._publish_call(v_corrected, shown => 'guard');
  end if;
  if v_spec.on_rename is null or v_spec.on_rename not in ('follow', 'block') then
    v_corrected.on_rename := 'follow';
    raise exception 'on_rename "%" is not follow or block', coalesce(v_spec.on_rename, 'null')
      using errcode = 'invalid_parameter_value',
            hint = 'For example: ' || notika._publish_call(v_corrected, shown => 'on_rename');
  end if;

  v_spec.relation := notika._find_table(v_spec);
  v_spec.table_name := notika._quoted(v_spec.relation);

  perform notika._check_columns(v_spec, 'columns', coalesce(v_spec.columns, _specify.columns));
  perform notika._check_columns(v_spec, 'watch', coalesce(v_spec.watch, _specify.watch));
  if v_spec.watch is not null and 'update' <> all (v_spec.operations) then
    v_corrected := v_spec;
    v_corrected.operations := v_spec.operations || '{update}';
    raise exception 'watch of workflow "%" has no meaning without update', v_spec.name
      using errcode = 'invalid_parameter_value',
            hint = 'Add update, or leave watch out: ' || notika._publish_call(v_corrected);
  end if;
  perform notika._check_rights(v_spec, _specify.caller);
  if v_spec.condition is not null then
    select c.condition_sql, c.condition_uses into v_spec.condition_sql, v_spec.condition_uses
      from notika._take_condition(v_spec, _specify.caller, _specify.function) as c;
  end if;
  v_spec.match := notika._check_match(v_spec, _specify.match);
  v_spec.column_names := v_spec.columns;
  v_spec.is_pinned := notika._wants_pins(v_spec.guard);
  return v_spec;
end;
$$;

comment on function notika._specify(
  name, text, text, text[], text[], text[], text, oid, text, text, text[]
) is
  'The row of a workflow from the arguments of publish, or an error that says what would be '
  'correct.';

create or replace function notika._specify(caller name, request jsonb)
  returns notika.workflow
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_request record;
begin
  select r.* into v_request
    from jsonb_to_record(_specify.request) as r (
           workflow text, table_name text, operations text[], columns text[], watch text[],
           condition text, function oid, guard text, on_rename text, match text[]);
  return notika._specify(
    _specify.caller, v_request.workflow, v_request.table_name, v_request.operations, v_request.columns,
    v_request.watch, v_request.condition, v_request.function, v_request.guard, v_request.on_rename,
    v_request.match);
end;
$$;

comment on function notika._specify(name, jsonb) is
  'The row of a workflow from a request to publish it.';

create or replace function notika._refuse_locked(what text, workflow text, table_name text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  raise exception 'cannot % workflow "%": table % is locked', what, workflow, table_name
    using errcode = 'lock_not_available',
          detail = format('Gave up after %s; waiting longer would block the application.',
                          notika._lock_timeout('3s')),
          hint = format('Try again. Sessions that hold it: select pid, mode from pg_locks '
                        'where relation = %L::regclass and granted;', table_name);
end;
$$;

comment on function notika._refuse_locked(text, text, text) is
  'Raises an error that says that a table, or the workflow itself, was locked for too long.';

create or replace function notika._check_workflow_of(spec notika.workflow)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_name text := notika._workflow_of(spec.name);
  v_cancel notika.workflow;
begin
  if v_name is not null then
    if not exists (
      select from notika.workflow as w where w.name = v_name and w.unpublished_at is null
    ) then
      raise exception 'cannot publish source "%": workflow "%" is not published', spec.name, v_name
        using errcode = 'undefined_object',
              hint = format('Publish it first: select notika.publish(%L, ''<schema>.<table>'');',
                            v_name);
    end if;
    return;
  end if;

  select w.* into v_cancel
    from notika.workflow as w
   where w.name = spec.name || ':cancel' and w.unpublished_at is null;
  if found then
    perform notika._check_cancel(spec, v_cancel);
  end if;
end;
$$;

comment on function notika._check_workflow_of(notika.workflow) is
  'Refuses a source without its workflow, and a workflow without the columns that its sources '
  'compare with.';
