-- The trigger function of a workflow: the code that runs at each write to a published table.

create or replace function notika._row_code(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  v_has_snapshot boolean := notika._has_sources(spec.name);
  v_code text := '';
begin
  if not spec.is_pinned and spec.watch is not null then
    v_code := format($$
  if tg_op operator(pg_catalog.=) 'UPDATE' then
    if not notika._is_watched_change(new, old, tg_relid, %s) then
      return null;
    end if;
  end if;$$, spec.workflow_id);
  end if;

  -- Each operation has its own code, because every further expression costs a transaction a
  -- little.
  if cardinality(spec.operations) = 1 then
    v_code := v_code || notika._usual_code(spec, spec.operations[1]);
  else
    v_code := v_code || (
      select string_agg(format(E'\n  %s%s',
               case o.place when 1 then v_condition
                            when cardinality(spec.operations) then 'else'
                            else 'els' || v_condition end,
               notika._indented(notika._usual_code(spec, o.name))), '' order by o.place)
        from unnest(spec.operations) with ordinality as o (name, place)
       cross join lateral (
         select format('if tg_op operator(pg_catalog.=) %L then', upper(o.name))
       ) as c (v_condition)
    ) || E'\n  end if;';
  end if;

  return v_code || format($code$

  if v_control operator(pg_catalog.&) 1 operator(pg_catalog.=) 1 then
    if v_control operator(pg_catalog.=) 7 then
      select o.is_muted, o.cause_id, o.depth into v_is_muted, v_cause_id, v_depth
        from notika._origin() as o;
      if v_is_muted then
        return null;
      end if;

      v_truncated := false;%1$s

      v_operation := case%2$s end;
      v_control :=
        pg_catalog.pg_sequence_last_value('notika.control_seq') operator(pg_catalog.%%) 6;%3$s
    end if;
    if v_control operator(pg_catalog.&) 1 operator(pg_catalog.=) 1 then
      perform notika._wake();
    end if;
  end if;
$code$,
    notika._indented(notika._repair_code(spec)),
    (select string_agg(
              format(E'\n        when tg_op operator(pg_catalog.=) %L then %L',
                     upper(o.name), o.name), '')
       from unnest(spec.operations) as o (name)),
    notika._indented(notika._indented(notika._at_segment(format($$
    insert into notika.event_log_%%s
      (workflow_id, operation, new, old, truncated, cause_id, depth%s)
    values
      (%s, v_operation, v_new, v_old, v_truncated, v_cause_id, v_depth%s);$$,
      case when v_has_snapshot then ', snapshot' end,
      spec.workflow_id,
      case when v_has_snapshot then ', pg_catalog.pg_current_snapshot()' end)))));
end;
$body$;

comment on function notika._row_code(notika.workflow) is
  'The body of the function of a trigger for each row.';

create or replace function notika._mark_oversized()
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform set_config('notika.set_aside', 'on', true);
  return false;
end;
$$;

comment on function notika._mark_oversized() is
  'Called for each row that is too large for an event; leaves the row out and notes that there is '
  'one.';

create or replace function notika._statement_code(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_has_snapshot boolean := notika._has_sources(spec.name);
  v_limit integer := (select s.payload_bytes from notika.setting as s);
  v_image text := case spec.operations when '{delete}' then 'old' else 'new' end;
  v_append text := format($$
    insert into notika.event_log_%%%%s (workflow_id, operation, %1$s%%1$s%2$s)
    select %3$s, %4$L, c.image%%2$s%5$s
      from (
        select notika.payload_%3$s(r.*) as image
          from changed as r
        offset 0 -- so that it is computed once
      ) as c
     where pg_catalog.octet_length(c.image::pg_catalog.text) operator(pg_catalog.<=) %6$s
        or notika._mark_oversized();$$,
    v_image,
    case when v_has_snapshot then ', snapshot' end,
    spec.workflow_id,
    spec.operations[1],
    case when v_has_snapshot then ', pg_catalog.pg_current_snapshot()' end,
    v_limit);
begin
  return format($code$%1$s
  if v_control operator(pg_catalog.=) 7 then
    select o.is_muted, o.cause_id, o.depth into v_is_muted, v_cause_id, v_depth
      from notika._origin() as o;
    if v_is_muted then
      return null;
    end if;
    v_control :=
      pg_catalog.pg_sequence_last_value('notika.control_seq') operator(pg_catalog.%%) 6;%3$s
  else -- without variables in it, it is not planned for each statement%2$s
  end if;

  if pg_catalog.current_setting('notika.set_aside', true) operator(pg_catalog.=) 'on' then
    perform pg_catalog.set_config('notika.set_aside', '', true);
    execute pg_catalog.format(
      'insert into notika.event_log_%%s
         (workflow_id, operation, %4$s, truncated, cause_id, depth%5$s)
       select $1, $2, %%s, true, $3, $4%6$s
         from changed as r
        where (pg_catalog.octet_length(notika.payload_%7$s(r.*)::pg_catalog.text)
               operator(pg_catalog.<=) %8$s) is not true',
      v_control operator(pg_catalog.>>) 1,
      coalesce(notika._key_expression('r', tg_relid::pg_catalog.regclass, %9$L::pg_catalog.text[]),
               '''{}''::pg_catalog.json'))
      using %7$s, %10$L::pg_catalog.text, v_cause_id, coalesce(v_depth, 0);
  end if;

  if v_control operator(pg_catalog.&) 1 operator(pg_catalog.=) 1 then
    perform notika._wake();
  end if;
$code$,
    notika._control_code(),
    notika._indented(notika._at_segment(format(v_append, '', ''))),
    notika._indented(notika._at_segment(
      format(v_append, ', cause_id, depth', ', v_cause_id, v_depth'))),
    v_image,
    case when v_has_snapshot then ', snapshot' end,
    case when v_has_snapshot then ', pg_catalog.pg_current_snapshot()' end,
    spec.workflow_id,
    v_limit,
    coalesce(notika._compared(spec), '{}')::text,
    spec.operations[1]);
end;
$body$;

comment on function notika._statement_code(notika.workflow) is
  'The body of the function of a trigger for each statement.';

create or replace function notika._capture_definition(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_types oid[];
begin
  -- Creating a trigger on a partitioned table reads its partition key.
  if (select c.relkind = 'p' from pg_class as c where c.oid = spec.relation) then
    perform notika._check_planning(spec.relation, true);
  end if;
  if spec.is_pinned and spec.columns is not null or notika._lists_columns(spec) then
    v_types := array(
      select a.atttypid
        from pg_attribute as a
       where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped
         and (spec.columns is null or a.attname = any (spec.column_names))
    );
  else
    v_types := array['point'::regtype]; -- any type may be added later
  end if;

  -- No search_path of its own, which would cost each row more than half of the call of a trigger:
  -- every name in it is qualified.
  return format($template$create or replace function notika._capture_%1$s()
  returns trigger
  language plpgsql
  security definer%2$s
as %3$s$template$,
    spec.workflow_id,
    notika._settings(v_types),
    notika._dollar_quoted(format($capture$
declare -- without initial values, each of which would be an expression for every row%1$s
  v_control pg_catalog.int8;
  v_is_muted pg_catalog.bool;
  v_cause_id pg_catalog.int8;
  v_depth pg_catalog.int2;
  v_nothing pg_catalog.bool;
begin%2$s
  return v_nothing; -- the result of an after trigger is ignored; null would be an expression
end;
$capture$,
    case spec.capture when 'row' then '
  v_operation pg_catalog.text;
  v_new pg_catalog.json;
  v_old pg_catalog.json;
  v_truncated pg_catalog.bool;' end,
    case spec.capture when 'row' then notika._row_code(spec) else notika._statement_code(spec) end
    ), 'capture')
  );
end;
$body$;

comment on function notika._capture_definition(notika.workflow) is
  'The statement that creates the trigger function of a workflow.';
