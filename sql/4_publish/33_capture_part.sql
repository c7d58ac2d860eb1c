-- The trigger function of a workflow and its triggers, in one of two forms. row: a trigger for
-- each row, with the filter as its WHEN. statement: one call for all rows that a statement
-- changed, a quarter of the cost for many rows and a little more for one. It is used only where it
-- sees the same changes in the same order; the event triggers of the guard watch over that.
--
-- This file has the pieces from which both forms are assembled, and the form without pins: while a
-- migration is let through, while a workflow is broken, and where a guard that only warns has no
-- event triggers. That form is slower, and never makes a write fail: a column is found by its name
-- or else by its number, and a missing one is left out.

create or replace function notika._acts_on_its_own(trigger pg_trigger)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- Triggers that only check whether a constraint holds write nothing before or after.
  select p.proname not in ('RI_FKey_check_ins', 'RI_FKey_check_upd', 'RI_FKey_noaction_del',
                           'RI_FKey_noaction_upd', 'RI_FKey_restrict_del', 'RI_FKey_restrict_upd',
                           'unique_key_recheck')
      or p.pronamespace <> 'pg_catalog'::regnamespace
    from pg_proc as p
   where p.oid = (_acts_on_its_own.trigger).tgfoid;
$$;

comment on function notika._acts_on_its_own(pg_trigger) is
  'Whether a trigger may write something; the triggers by which Postgres checks constraints do '
  'not.';

create or replace function notika._form(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Changes of one operation come in order; between several operations the order would be lost.
  if not spec.is_pinned or spec.columns is null or spec.condition is not null
     or spec.operations not in ('{insert}', '{delete}')
     or spec.fires_always -- replicated changes fire no trigger for each statement
     or not notika._has_event_triggers()
  then
    return 'row';
  end if;

  if exists (select from pg_class as c where c.oid = spec.relation and c.relkind <> 'r')
     -- Postgres cannot compute it as part of a row that a statement changed.
     or exists (
       select from pg_attribute as a
        where a.attrelid = spec.relation and a.attgenerated = 'v' and not a.attisdropped
     )
     -- Changes of a partition are seen by the triggers of the partition.
     or exists (
       select from pg_inherits as i where spec.relation in (i.inhrelid, i.inhparent)
     )
     -- Other triggers may write before it, or between the rows; and its own may have been enabled
     -- always.
     or exists (
       select from pg_trigger as t
         join pg_proc as p on p.oid = t.tgfoid
        where t.tgrelid = spec.relation
          and t.tgtype & 66 = 0 -- neither before nor instead
          and t.tgtype & case when spec.operations = '{insert}' then 4 else 8 end > 0
          and case when p.pronamespace = 'notika'::regnamespace
                   then t.tgname = format('notika_%s_%s', spec.workflow_id, spec.operations[1])
                        and t.tgenabled = 'A'
                   else notika._acts_on_its_own(t) end
     )
  then
    return 'row';
  end if;
  return 'statement';
end;
$$;

comment on function notika._form(notika.workflow) is
  'The form in which a workflow is captured: statement if such a trigger sees the same changes, '
  'otherwise row.';

create or replace function notika._is_held(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return spec.is_pinned and spec.columns is not null
     and (spec.capture = 'statement' or not notika._has_event_triggers());
end;
$$;

comment on function notika._is_held(notika.workflow) is
  'Whether its triggers depend on the payload function; otherwise they do without it.';

create or replace function notika._has_fallback(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return spec.is_pinned and spec.columns is not null and not notika._is_held(spec)
     -- For a row of a partition or child, two functions would match.
     and (select c.relkind <> 'p' from pg_class as c where c.oid = spec.relation)
     and (select count(*) = 1 from notika._family(spec.relation));
end;
$$;

comment on function notika._has_fallback(notika.workflow) is
  'Whether a function for any row takes over if the payload function is dropped, so that writes '
  'continue and need no subtransaction.';

create or replace function notika._rows(operation text)
  returns text[]
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select case operation when 'insert' then array['new']
                        when 'update' then array['new', 'old']
                        else array['old'] end;
$$;

comment on function notika._rows(text) is
  'Which rows an operation has: the one after the change, the one before it.';

create or replace function notika._fits_expression(changed text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format('pg_catalog.octet_length(v_%s::pg_catalog.text) operator(pg_catalog.<=) %s',
                _fits_expression.changed, s.payload_bytes)
    from notika.setting as s;
$$;

comment on function notika._fits_expression(text) is
  'SQL that is true in a trigger for each row if the json of new or old is small enough for an '
  'event.';

create or replace function notika._control_code(condition text default 'true')
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $body$
  -- The row that was written gave the transaction its xid before the segment is read. Reading the
  -- sequence takes a lock on it, by which _doze finds sessions that do not know yet that they have
  -- to notify.
  select format($$
  -- In one expression, because each expression that reads a table takes a snapshot.
  v_control := case
    when pg_catalog.current_setting('notika.mute', true) operator(pg_catalog.<>) '' then 7
    when pg_catalog.current_setting('notika.run', true) operator(pg_catalog.<>) '' then 7
    when %s
      then pg_catalog.pg_sequence_last_value('notika.control_seq') operator(pg_catalog.%%) 6
    else 7
  end;$$, _control_code.condition);
$body$;

comment on function notika._control_code(text) is
  'Code by which a trigger knows the segment that it writes to, which is half of v_control, and '
  'whether it has to notify: then v_control is odd. 7: the session or, if there is a condition, '
  'the row is not of the usual kind.';

create or replace function notika._at_segment(template text)
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $body$
  select format($$
  if v_control operator(pg_catalog.<) 2 then%s
  elsif v_control operator(pg_catalog.<) 4 then%s
  elsif v_control operator(pg_catalog.<) 6 then%s
  end if;$$,
    format(_at_segment.template, 0),
    format(_at_segment.template, 1),
    format(_at_segment.template, 2));
$body$;

comment on function notika._at_segment(text) is
  'Code for each segment, of which that of v_control runs; %s stands for its number.';

create or replace function notika._key_code(spec notika.workflow, changed text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_compared text[] := coalesce(notika._compared(spec), '{}');
  v_expression text := notika._key_expression(changed, spec.relation, v_compared);
  v_key text := format(
    'notika._key(%s, tg_relid%s)', changed, ', ' || quote_literal(nullif(v_compared, '{}')::text));
begin
  if v_expression is null then
    return format('        v_%1$s := %2$s;', changed, v_key);
  end if;
  -- Passing a row to a function passes its values that are stored outside of it too: time, memory,
  -- and an error from a gigabyte on.
  return format($$        v_%1$s := null;
        begin -- key %5$s
          if notika._key_names(tg_relid) operator(pg_catalog.=) %2$L::pg_catalog.text[] then
            v_%1$s := %3$s;
          end if;
        exception when undefined_column or datatype_mismatch then
          null; -- the table was changed, and this function was not created again
        end;
        if v_%1$s is null then
          v_%1$s := %4$s;
        end if;$$, changed, notika._key_names(spec.relation), v_expression, v_key,
    (select md5(string_agg(format('%s %s', k.place, format_type(k.type, null)), ', ' order by k.place))
       from notika._key_of(spec.relation) as k));
end;
$body$;

comment on function notika._key_code(notika.workflow, text) is
  'Code by which a trigger for each row gets the key of new or old as json.';

create or replace function notika._shape(relation regclass)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select md5(coalesce(
           string_agg(format('%L %s', a.attname, a.atttypid), ', ' order by a.attnum), ''
         ))
    from pg_attribute as a
   where a.attrelid = _shape.relation and a.attnum > 0 and not a.attisdropped;
$$;

comment on function notika._shape(regclass) is
  'A value that changes when the columns of a table, their names or their types change.';

create or replace function notika._listed_shape(definition text[])
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
  select substring(d.statement from E'\n *-- columns ([0-9a-f]{32})\n')
    from unnest(_listed_shape.definition) as d (statement)
   where starts_with(d.statement, 'create or replace function notika._capture_')
     and strpos(d.statement, '-- columns ') > 0;
$$;

comment on function notika._listed_shape(text[]) is
  'The shape of a table when its columns were listed for a workflow; null if they are not listed.';

create or replace function notika._lists_columns(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return spec.is_pinned and spec.columns is null and notika._has_event_triggers()
     -- Children have columns of their own, and those of their parents change without an event.
     and not exists (
       select from pg_inherits as i
         join pg_class as c on c.oid = i.inhrelid
        where i.inhrelid = spec.relation or i.inhparent = spec.relation and not c.relispartition
     );
end;
$$;

comment on function notika._lists_columns(notika.workflow) is
  'Whether a whole row is made from a list of its columns, which the guard keeps consistent with '
  'it.';

create or replace function notika._has_parts(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (select c.relkind = 'p' from pg_class as c where c.oid = spec.relation)
      or (select count(*) > 1 from notika._family(spec.relation));
end;
$$;

comment on function notika._has_parts(notika.workflow) is
  'Whether rows of partitions or children are captured too.';

create or replace function notika._image_expression(spec notika.workflow, changed text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_limit integer := (select s.payload_bytes from notika.setting as s);
begin
  -- A function that takes a row of a published table would take that of a partition too, and
  -- convert it by a cast between the two, if their owner created one.
  if spec.is_pinned and spec.columns is not null and not notika._has_parts(spec) then
    return format('notika.payload_%s(%s)', spec.workflow_id, changed);
  elsif spec.is_pinned and spec.columns is not null or notika._lists_columns(spec) then
    if spec.columns is not null then
      perform notika._expect_columns(spec.relation, spec.column_names);
    end if;
    return (
      select format(
               E'case when 0::pg_catalog.int8%s operator(pg_catalog.<=) %s then\n    %s end',
               string_agg(' operator(pg_catalog.+) ' || notika._size_expression(
                 format('%s.%I', changed, a.attname), a.atttypid, a.atttypmod, false), ''
                 order by k.place),
               v_limit,
               notika._object_expression(
                 array_agg(k.key order by k.place),
                 array_agg(format('%s.%I', changed, a.attname) order by k.place),
                 array_agg(a.atttypid order by k.place),
                 false))
        from (
          select c.key, c.name, c.place
            from unnest(spec.columns, spec.column_names) with ordinality as c (key, name, place)
          union all
          select t.attname, t.attname, t.attnum
            from pg_attribute as t
           where spec.columns is null
             and t.attrelid = spec.relation and t.attnum > 0 and not t.attisdropped
        ) as k
        join pg_attribute as a
          on a.attrelid = spec.relation and a.attname = k.name and a.attnum > 0
         and not a.attisdropped
    );
  end if;
  return format('case when pg_catalog.pg_column_size(%s) operator(pg_catalog.<=) %s then %s end',
    changed, v_limit,
    case when spec.is_pinned then format('notika._whole_row(%s, tg_relid)', changed)
         else format('notika._loose_image(%s, tg_relid, %s)', changed, spec.workflow_id) end);
end;
$$;

comment on function notika._image_expression(notika.workflow, text) is
  'SQL for the json of new or old in a trigger for each row; null if the row is too large.';

create or replace function notika._images_code(spec notika.workflow, operation text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  v_rows text[] := notika._rows(operation);
  v_code text := (
    select string_agg(
             format(E'\n  v_%s := %s;', r, notika._image_expression(spec, r)), '' order by r)
      from unnest(v_rows) as r
  );
begin
  -- What it names may be gone or have another type, and the guard has not handled that.
  if spec.is_pinned
     and (spec.columns is not null and notika._has_parts(spec) or notika._lists_columns(spec))
  then
    return format($$
  begin%s%s
  exception
    when undefined_column or datatype_mismatch or undefined_function or ambiguous_function then%s
  end;$$,
      case when spec.columns is null
           then format(E'\n    -- columns %s', notika._shape(spec.relation)) end,
      notika._indented(v_code),
      (select string_agg(
                format(E'\n      v_%1$s := notika._loose_image(%1$s, tg_relid, %2$s);', r,
                       spec.workflow_id), '' order by r)
         from unnest(v_rows) as r));
  end if;
  return v_code;
end;
$body$;

comment on function notika._images_code(notika.workflow, text) is
  'Code by which a trigger for each row gets the rows before and after the change as json.';

create or replace function notika._repair_code(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
begin
  return (
    select string_agg(format($$
    if %1$s(%2$s) is not true then%3$s
      if (%2$s) is not true then
        v_truncated := true;
%4$s
      end if;
    end if;$$,
             case when r.missing = any (spec.operations)
                  then format('tg_op operator(pg_catalog.<>) %L and ', upper(r.missing)) end,
             notika._fits_expression(r.name),
             case when notika._has_fallback(spec) then format($$
      if v_%1$s is null and notika._payload_function(%2$s, tg_relid) is null then
        v_%1$s := notika._loose_image(%1$s, tg_relid, %2$s);
      end if;$$, r.name, spec.workflow_id) end,
             notika._key_code(spec, r.name)), '' order by r.name)
      from (values ('new', 'delete'), ('old', 'insert')) as r (name, missing)
     where spec.operations <> array[r.missing]
  );
end;
$body$;

comment on function notika._repair_code(notika.workflow) is
  'Code of a trigger for each row for rows that are too large, or whose payload function is gone.';

create or replace function notika._usual_code(spec notika.workflow, operation text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  v_has_snapshot boolean := notika._has_sources(spec.name);
  v_rows text[] := notika._rows(operation);
begin
  return notika._images_code(spec, operation)
      || notika._control_code(array_to_string(
           array(select notika._fits_expression(r.name) from unnest(v_rows) as r (name)),
           E'\n     and '))
      || notika._at_segment(format($$
    insert into notika.event_log_%%s (workflow_id, operation, %s%s)
    values (%s, %L, v_%s%s);$$,
           array_to_string(v_rows, ', '),
           case when v_has_snapshot then ', snapshot' end,
           spec.workflow_id,
           operation,
           array_to_string(v_rows, ', v_'),
           case when v_has_snapshot then ', pg_catalog.pg_current_snapshot()' end));
end;
$body$;

comment on function notika._usual_code(notika.workflow, text) is
  'Code of a trigger for each row for an operation in the usual case.';

create or replace function notika._present_columns(workflow_id integer, names text[], part regclass)
  returns table (place bigint, name text, type oid, attnum smallint)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- A column is identified by its number and, if that is gone, by its name, unless another column
  -- of the workflow has that name. The numbers are those of the published table; a partition may
  -- have others. In a restored copy they mean nothing before the copy is bound.
  return query
    select k.place, a.attname::text, a.atttypid, a.attnum
      from unnest(_present_columns.names) with ordinality as k (name, place)
      join notika.workflow as w on w.workflow_id = _present_columns.workflow_id
      left join notika.contract as c
        on c.workflow_id = w.workflow_id and c.column_name = k.name and not (select notika._is_copy())
      left join pg_attribute as r
        on r.attrelid = w.relation and r.attnum = c.attnum and not r.attisdropped
      left join pg_attribute as n
        on n.attrelid = w.relation and n.attname = k.name and n.attnum > 0 and not n.attisdropped
       and r.attnum is null and not exists (
         select from notika.contract as o
          where o.workflow_id = w.workflow_id and o.attnum = n.attnum and not (select notika._is_copy())
       )
      join pg_attribute as a
        on a.attrelid = _present_columns.part
       and a.attname = coalesce(r.attname, n.attname) and a.attnum > 0 and not a.attisdropped;
end;
$$;

comment on function notika._present_columns(integer, text[], regclass) is
  'Which of these columns of a workflow still exist, and in which form.';

create or replace function notika._loose_image(changed anyelement, part regclass, workflow_id integer)
  returns json
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set timezone = 'UTC'
  set datestyle = 'ISO, YMD'
  set intervalstyle = 'iso_8601'
  set bytea_output = 'hex'
  set extra_float_digits = '1'
  set lc_monetary = 'C'
  set quote_all_identifiers = off
as $$
declare
  v_spec notika.workflow;
  v_object text;
  v_image json;
begin
  select w.* into v_spec from notika.workflow as w where w.workflow_id = _loose_image.workflow_id;
  if v_spec.columns is null then
    return notika._whole_row(changed, part);
  end if;

  select notika._value_expression(
           array_agg(v_spec.columns[p.place] order by p.place),
           array_agg(format('($1).%I', p.name) order by p.place)
         )
    into v_object
    from notika._present_columns(v_spec.workflow_id, v_spec.column_names, part) as p;
  execute format('select %s', v_object)
    into v_image
    using changed;
  return v_image;
end;
$$;

comment on function notika._loose_image(anyelement, regclass, integer) is
  'The part of a row that an event carries, from the columns that still exist.';

create or replace function notika._is_watched_change(
  new_row anyelement,
  old_row anyelement,
  part regclass,
  workflow_id integer
)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_columns smallint[];
begin
  select array_agg(p.attnum) into v_columns
    from notika.workflow as w
   cross join notika._present_columns(w.workflow_id, w.watch, part) as p
   where w.workflow_id = _is_watched_change.workflow_id;
  -- An event too many is better than one too few.
  return v_columns is null
      or notika._pick(new_row, part, v_columns)::text
         is distinct from notika._pick(old_row, part, v_columns)::text;
end;
$$;

comment on function notika._is_watched_change(
  anyelement, anyelement, regclass, integer
) is
  'Whether an update changed one of the watched columns that still exist.';
