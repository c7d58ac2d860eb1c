-- The pages of a backfill, in the order of the keys: which rows have had a run of their own since
-- it started, what the others get, and when the next page is taken.

create or replace function notika._full_xid(xid xid, near pg_snapshot)
  returns xid8
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  -- A row has the last 32 bits. One that was frozen long ago may be taken for a new one: then it
  -- is looked for among those that have had a run, and is not found.
  select (((x.low - x.near + 2147483648) & 4294967295) - 2147483648 + x.near)::text::xid8
    from (
      select _full_xid.xid::text::bigint as low,
             greatest(pg_snapshot_xmax(_full_xid.near)::text::bigint, 2147483648) as near
    ) as x;
$$;

comment on function notika._full_xid(xid, pg_snapshot) is
  'The transaction id with these last bits that is nearest to a snapshot.';

create or replace function notika._note_live(here notika.position, last_id bigint)
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  insert into notika.backfill_key (backfill_id, key)
  select b.backfill_id,
         notika._index_key(notika._values(
           json_build_object('new', e.new), notika._payload_key(w, w.relation)))
    from notika.backfill as b
    join notika.workflow as w on w.workflow_id = b.workflow_id
   cross join notika._event as e
   where b.finished_at is null and w.relation is not null
     and e.event_id > here.window_at and e.event_id <= _note_live.last_id
     and e.workflow_id = b.workflow_id and e.operation in ('insert', 'update')
     and pg_visible_in_snapshot(e.xid, here.window_snapshot)
     and not pg_visible_in_snapshot(e.xid, here.snapshot)
     and not pg_visible_in_snapshot(e.xid, b.snapshot)
  on conflict on constraint backfill_key_pkey do nothing;
$$;

comment on function notika._note_live(notika.position, bigint) is
  'Records, for running backfills, the rows that got a run from the chunk after here.';

create or replace function notika._beyond(part regclass, key text[], is_beyond boolean default true)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- A string without a type gets that of the column, whatever object has the type's name now.
  with compared as (
    select k.place, k.comparison, format('new.%I', k.name) as name,
           quote_literal(_beyond.key[k.place]) as value
      from notika._backfill_key(_beyond.part) as k
  )
  select case
           when bool_and(c.comparison = '>') then format(
             '(%s) %s (%s)', string_agg(c.name, ', ' order by c.place),
             case when is_beyond then '>' else '<=' end,
             string_agg(c.value, ', ' order by c.place))
           -- The operators of other schemas compare one column each.
           else format('%s(%s)', case when not is_beyond then 'not ' end, string_agg(
             format('%s %s %s', c.name, c.comparison, c.value)
             || coalesce((
               select string_agg(format(' and not %s %s %s', e.value, e.comparison, e.name), ''
                                 order by e.place)
                 from compared as e
                where e.place < c.place
             ), ''), ' or ' order by c.place))
         end
    from compared as c;
$$;

comment on function notika._beyond(regclass, text[], boolean) is
  'SQL that is true for a row called new whose key comes after this one, or does not.';

create or replace function notika._compiled(backfill notika.backfill, spec notika.workflow)
  returns regprocedure
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
as $$
declare
  v_uses constant jsonb := coalesce(spec.condition_uses, '[]') || coalesce(backfill.condition_uses, '[]');
  v_table constant text := notika._quoted(backfill.part);
  v_function regprocedure;
  v_other text;
begin
  if not exists (select from jsonb_array_elements(v_uses) as u where u ? 'name') then
    return null; -- it names nothing that could refer to another object now
  end if;
  perform notika._suspend_guard(true);
  execute format(
    'create function notika._backfill_%s(new %s, old %2$s) returns boolean language sql stable '
    'begin atomic select coalesce((%s) and (%s), false); end',
    backfill.backfill_id, v_table, coalesce(notika._condition_code(spec), 'true'),
    coalesce(notika._with_text(backfill.condition_sql), 'true'));
  perform notika._suspend_guard(false);

  -- The parsed function refers to objects by oid: it keeps its meaning.
  select p.oid::regprocedure into v_function
    from pg_proc as p
   where p.pronamespace = 'notika'::regnamespace
     and p.proname = format('_backfill_%s', backfill.backfill_id);
  select format('%s %s', u.kind, u.name) into v_other
    from pg_proc as p
   cross join lateral jsonb_to_recordset(notika._uses(p.prosqlbody::text)) as u (kind text, oid oid, name text)
   where p.oid = v_function and u.name is not null
     and not exists (
       select from jsonb_to_recordset(v_uses) as k (kind text, oid oid) where (k.kind, k.oid) = (u.kind, u.oid)
     )
   limit 1;
  if found then
    raise exception 'the condition of a backfill of workflow "%" changed its meaning: %', spec.name, v_other
      using errcode = 'NK002',
            hint = format('End it, publish again, and start another one: select notika.cancel_backfill(%L);',
                          spec.name);
  end if;
  return v_function;
end;
$$;

comment on function notika._compiled(notika.backfill, notika.workflow) is
  'Makes a function of the conditions of a backfill, for the next page, and checks that they '
  'still mean the same; null: they name no objects of others, and are part of the query.';

create or replace function notika._page(
  backfill notika.backfill,
  spec notika.workflow,
  max_rows integer,
  out rows_seen integer,
  out last_key text[],
  out runs bigint[]
)
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set row_security = off
  set constraint_exclusion = off -- checks call functions of other roles
  set datestyle = 'ISO, YMD'
  set intervalstyle = 'iso_8601'
  set timezone = 'UTC'
  set bytea_output = 'hex'
  set extra_float_digits = '1'
  set lc_monetary = 'C'
  set quote_all_identifiers = off
  set standard_conforming_strings = on
as $$
declare
  v_limit constant integer := (select s.payload_bytes from notika.setting as s);
  v_columns text;
  v_texts text;
  v_until text;
  v_image text;
  v_passes text := format('coalesce((%s) and (%s), false)', coalesce(spec.condition_sql, 'true'),
                          coalesce(backfill.condition_sql, 'true'));
  v_function regprocedure;
begin
  -- Everything that was checked at the start may have changed since the last page.
  perform set_config('row_security', notika._open_part(spec, backfill.part), true);
  perform notika._check_trust(spec, spec.condition_uses);
  perform notika._check_trust(spec, backfill.condition_uses);
  if to_jsonb(notika._key_signature(backfill.part))
     is distinct from backfill.keys -> backfill.part::text
  then
    raise exception 'the key of table % has changed since the backfill started',
      notika._quoted(backfill.part)
      using errcode = 'object_not_in_prerequisite_state',
            detail = format('It was %s, and is %s.', backfill.keys -> backfill.part::text,
                            to_jsonb(notika._key_signature(backfill.part))),
            hint = format('Start again: select notika.cancel_backfill(%1$L); '
                          'select notika.backfill(%1$L);', spec.name);
  end if;

  select string_agg(format('new.%I', k.name), ', ' order by k.place),
         string_agg(format('format(''%%s'', new.%I)', k.name), ', ' order by k.place)
    into v_columns, v_texts
    from notika._backfill_key(backfill.part) as k;
  v_until := notika._beyond(backfill.part, array(
    select jsonb_array_elements_text(backfill.ends -> backfill.part::text)), false);

  -- As the capture function makes it.
  v_image := case
    when spec.columns is not null and spec.is_pinned
      then format('notika.payload_%s(p.new)', spec.workflow_id)
    else format('case when pg_column_size(p.new) <= %s then %s end', v_limit, case
      when spec.columns is null then 'notika._whole_row(p.new, $1)'
      else format('notika._loose_image(p.new, $1, %s)', spec.workflow_id) end)
  end;

  v_function := notika._compiled(backfill, spec);
  if v_function is not null then
    v_passes := format('notika._backfill_%s(new, old)', backfill.backfill_id);
  end if;

  perform pg_current_xact_id(); -- before the segment is read: see _append
  execute format(
    $page$
    with page as materialized (
      select new, new.xmin as xid, array[%1$s] as key, %2$s as passes
        from %3$s%4$s as new
        left join only %4$s as old on false -- an existing row has no earlier version
       where %5$s %7$s
       order by %6$s
       limit %8$s
    ), placed as materialized (
      select p.*, row_number() over () as place from page as p
    ), live as materialized (
      select notika._index_key(notika._values(json_build_object('new', e.new), $2)) as key
        from notika._event as e
       cross join notika._position() as p
       where e.event_id > notika._bound(p)
         and not notika._dispatched(e.event_id, e.xid, e.workflow_id, p)
         and e.workflow_id = $3 and e.operation in ('insert', 'update')
         and not pg_visible_in_snapshot(e.xid, $4)
    ), image as materialized (
      select p.place, p.xid, i.image is null or octet_length(i.image::text) > %9$s as truncated,
             case when octet_length(i.image::text) <= %9$s then i.image
                  else notika._key(p.new, $1) end as image
        from placed as p
       cross join lateral (select %10$s as image) as i
       where p.passes
    ), appended as (
      insert into notika.event_log_%11$s (workflow_id, operation, new, truncated)
      select $3, 'backfill', i.image, i.truncated
        from image as i
       cross join lateral (
         select notika._index_key(notika._values(json_build_object('new', i.image), $2)) as key
       ) as k
       where pg_visible_in_snapshot(notika._full_xid(i.xid, $4), $4)
          or k.key not in (select l.key from live as l)
         and not exists (
           select from notika.backfill_key as n where n.backfill_id = $5 and n.key = k.key
         )
       order by i.place
      returning event_id
    )
    select (select count(*) from placed), (select p.key from placed as p order by p.place desc limit 1),
           (select coalesce(array_agg(a.event_id), '{}') from appended as a)
    $page$,
    v_texts, v_passes, notika._only(backfill.part), notika._quoted(backfill.part),
    case when backfill.last_key is not null
         then notika._beyond(backfill.part, backfill.last_key) || ' and' else '' end,
    v_columns, v_until, max_rows, v_limit, v_image, notika._segment(0)
  )
    into rows_seen, last_key, runs
    using backfill.part::regclass, notika._payload_key(spec, backfill.part), spec.workflow_id,
          backfill.snapshot, backfill.backfill_id;
  if v_function is not null then
    perform notika._suspend_guard(true);
    execute format('drop function %s', v_function);
    perform notika._suspend_guard(false);
  end if;
end;
$$;

comment on function notika._page(notika.backfill, notika.workflow, integer) is
  'Starts the runs of the next rows of a backfill. Returns the number of rows that it has read, '
  'the last one, and the runs.';

create or replace function notika._backfill_on(backfill notika.backfill, spec notika.workflow)
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set lock_timeout = '100ms' -- dispatch must not wait for a migration
as $$
declare
  v_until constant timestamptz := clock_timestamp() + interval '100 milliseconds';
  v_page record;
  v_hint text;
  v_detail text;
  v_column text;
  v_table text;
begin
  -- Earlier runs go first: half of the last page must have begun.
  if (
    select count(*)
      from notika._job as j
     where j.key = any (backfill.last_runs::text[])
       and j.attempts = 0 and j.locked_at is null and not coalesce(j.flags ? 'resumed', false)
  ) > cardinality(backfill.last_runs) / 2 then
    return 0;
  end if;

  spec := notika._with_names(spec);
  backfill.last_runs := '{}';
  loop
    if backfill.part is null then
      select min(p.oid::bigint)::oid into backfill.part
        from jsonb_object_keys(backfill.ends) as p (oid);
      if not found or backfill.part is null then
        perform notika._save(backfill);
        perform notika._end_backfill(backfill.backfill_id, 'done');
        exit;
      end if;
    end if;

    v_page := notika._page(backfill, spec, 1000);
    backfill.rows_seen := backfill.rows_seen + v_page.rows_seen;
    backfill.events := backfill.events + cardinality(v_page.runs);
    backfill.last_runs := backfill.last_runs || v_page.runs;
    backfill.last_key := v_page.last_key;
    if v_page.rows_seen < 1000 then
      backfill.ends := backfill.ends - backfill.part::text;
      backfill.part := null;
      backfill.last_key := null;
    end if;
    if cardinality(backfill.last_runs) > 500 or clock_timestamp() > v_until then
      perform notika._save(backfill);
      exit;
    end if;
  end loop;
  perform notika._wake();
  return greatest(cardinality(backfill.last_runs), 1); -- there is more to do immediately
exception
  when lock_not_available then
    return 0;
  when others then
    get stacked diagnostics
      v_detail = pg_exception_detail, v_hint = pg_exception_hint,
      v_column = column_name, v_table = table_name;
    update notika.backfill as b
       set state = 'failed',
           error_code = concat_ws(' ', 'SQLSTATE', sqlstate, 'column ' || nullif(v_column, ''),
                                  'table ' || nullif(v_table, '')),
           error = concat_ws(E'\n', sqlerrm, nullif(v_detail, ''), nullif(v_hint, ''),
             format('Then it continues with: select notika.backfill(%L%s);', spec.name,
                    ', ' || quote_literal(backfill.condition)))
     where b.backfill_id = backfill.backfill_id;
    return 0;
end;
$$;

comment on function notika._backfill_on(notika.backfill, notika.workflow) is
  'Takes some pages of a backfill, if it is its turn, and returns the number of runs started; an '
  'error stops the backfill and nothing else.';

create or replace function notika._save(backfill notika.backfill)
  returns void
  language sql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
  update notika.backfill as b
     set part = backfill.part, ends = backfill.ends, last_key = backfill.last_key,
         last_runs = backfill.last_runs, rows_seen = backfill.rows_seen, events = backfill.events
   where b.backfill_id = backfill.backfill_id;
$$;

comment on function notika._save(notika.backfill) is 'Keeps the progress of a backfill.';

create or replace function notika._backfill_all()
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_backfill notika.backfill;
  v_spec notika.workflow;
  v_started integer := 0;
begin
  for v_backfill in
    select b.* from notika.backfill as b where b.state = 'running' order by b.backfill_id
  loop
    select w.* into v_spec from notika.workflow as w where w.workflow_id = v_backfill.workflow_id;
    if v_spec.paused_at is null and v_spec.broken_reason is null then
      v_started := v_started + notika._backfill_on(v_backfill, v_spec);
    end if;
  end loop;
  return v_started;
end;
$$;

comment on function notika._backfill_all() is
  'Takes the next pages of all backfills, and returns the number of runs started. Requires the '
  'lock of _lock_dispatch.';
