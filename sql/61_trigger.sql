-- The trigger function of a workflow and its triggers, in one of two forms.
-- row: a trigger for each row, with the filter as its WHEN.
-- statement: one call for all rows that a statement changed, a quarter of the cost for many and a
-- little dearer for one; only where it sees the same changes in the same order, which is for the
-- event triggers of the guard to watch over.

create or replace function notika._acts_on_its_own(trigger pg_trigger)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  -- What only looks whether a constraint holds writes nothing that would come before or after.
  select p.proname not in ('RI_FKey_check_ins', 'RI_FKey_check_upd', 'RI_FKey_noaction_del',
                           'RI_FKey_noaction_upd', 'RI_FKey_restrict_del', 'RI_FKey_restrict_upd',
                           'unique_key_recheck')
      or p.pronamespace <> 'pg_catalog'::regnamespace
    from pg_proc as p
   where p.oid = (_acts_on_its_own.trigger).tgfoid;
$$;

comment on function notika._acts_on_its_own(pg_trigger) is
  'Whether a trigger may write something: not those by which Postgres checks constraints.';

create or replace function notika._form(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Changes of one operation come in order; between those of several the order would be lost.
  if not spec.is_pinned or spec.columns is null or spec.condition is not null
     or spec.operations not in ('{insert}', '{delete}')
     or not notika._has_event_triggers()
  then
    return 'row';
  end if;

  if exists (select from pg_class as c where c.oid = spec.relation and c.relkind <> 'r')
     -- As part of a row that a statement changed Postgres cannot compute it.
     or exists (
       select from pg_attribute as a
        where a.attrelid = spec.relation and a.attgenerated = 'v' and not a.attisdropped
     )
     -- What is written to a part is a matter of the part's triggers.
     or exists (
       select from pg_inherits as i where spec.relation in (i.inhrelid, i.inhparent)
     )
     -- Others may write before it, or between the rows; and one that fires always is meant for what
     -- is replicated, which fires none for each statement.
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
  'The form in which a workflow is captured: statement where such a trigger sees the same, or row.';

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
  'Whether its triggers go with the payload function; otherwise they do without it.';

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
    return format('      v_%1$s := %2$s;', changed, v_key);
  end if;
  -- A row that is passed on takes all along that is kept outside of it: time, memory, and from a
  -- gigabyte on an error.
  return format($$      begin
        v_%1$s := case when notika._key_names(tg_relid) = %2$L::text[] then
          %3$s
        end;
      exception when undefined_column then
        v_%1$s := null;
      end;
      if v_%1$s is null then
        v_%1$s := %4$s;
      end if;$$, changed, notika._key_names(spec.relation), v_expression, v_key);
end;
$body$;

comment on function notika._key_code(notika.workflow, text) is
  'What a trigger for each row does to have the key of new or old as json.';

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
  'Tells a table from what it was before its columns, their names or types changed.';

create or replace function notika._listed_shape(definition text[])
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select substring(d.statement from E'\n      -- columns ([0-9a-f]{32})\n')
    from unnest(_listed_shape.definition) as d (statement)
   where starts_with(d.statement, 'create or replace function notika._capture_')
     and strpos(d.statement, '-- columns ') > 0;
$$;

comment on function notika._listed_shape(text[]) is
  'The shape of a table when its columns were listed for a workflow; null: they are not listed.';

create or replace function notika._lists_columns(spec notika.workflow)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return spec.is_pinned and spec.columns is null and notika._has_event_triggers()
     -- Children have columns of their own, and those of parents change without a word.
     and not exists (
       select from pg_inherits as i
         join pg_class as c on c.oid = i.inhrelid
        where i.inhrelid = spec.relation or i.inhparent = spec.relation and not c.relispartition
     )
     -- What is in a type of somebody else changes without the table.
     and not exists (
       select from pg_attribute as a
         join pg_type as t on t.oid = notika._base_type(a.atttypid)
        where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped
          and t.oid >= 16384 and t.typtype <> 'e'
     );
end;
$$;

comment on function notika._lists_columns(notika.workflow) is
  'Whether a whole row is made from a list of its columns, which the guard keeps in step with it.';

create or replace function notika._image_expression(spec notika.workflow, changed text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_limit integer := (select s.payload_bytes from notika.setting as s);
begin
  if spec.is_pinned and spec.columns is not null then
    return format('notika.payload_%s(%s)', spec.workflow_id, changed);
  elsif notika._lists_columns(spec) then
    return (
      select format(E'case when 0::int8%s <= %s then\n        %s end',
               string_agg(' + ' || notika._size_expression(
                 format('%s.%I', changed, a.attname), a.atttypid, a.atttypmod), ''
                 order by a.attnum),
               v_limit,
               notika._object_expression(
                 array_agg(a.attname::text order by a.attnum),
                 array_agg(notika._json_expression(format('%s.%I', changed, a.attname), a.atttypid)
                           order by a.attnum)))
        from pg_attribute as a
       where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped
    );
  end if;
  return format('case when pg_column_size(%s) <= %s then %s end', changed, v_limit,
    case when spec.is_pinned then format('notika._whole_row(%s, tg_relid)', changed)
         else format('notika._loose_image(%s, tg_relid, %s)', changed, spec.workflow_id) end);
end;
$$;

comment on function notika._image_expression(notika.workflow, text) is
  'SQL for the json of new or old in a trigger for each row; null: the row is too big.';

create or replace function notika._images_code(spec notika.workflow, operation text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_limit integer := (select s.payload_bytes from notika.setting as s);
  v_rows text[] := case operation when 'insert' then array['new']
                                  when 'update' then array['new', 'old']
                                  else array['old'] end;
  v_code text := (
    select string_agg(
             format(E'\n      v_%s := %s;', r, notika._image_expression(spec, r)), '' order by r)
      from unnest(v_rows) as r
  );
  v_row text;
begin
  -- A subtransaction that writes nothing costs a single row less than a WHEN that would take the
  -- trigger along.
  if spec.is_pinned and not notika._is_held(spec)
     and (spec.columns is not null or notika._lists_columns(spec))
  then
    v_code := format($$
    begin%s%s
    exception when %s then -- it was changed or dropped, and nobody saw to it%s
    end;$$,
      case when spec.columns is null
           then format(E'\n      -- columns %s', notika._shape(spec.relation)) end,
      v_code,
      case when spec.columns is null then 'undefined_column or datatype_mismatch'
           else 'undefined_function' end,
      (select string_agg(
                format(E'\n      v_%1$s := notika._loose_image(%1$s, tg_relid, %2$s);', r,
                       spec.workflow_id), '' order by r)
         from unnest(v_rows) as r));
  end if;

  foreach v_row in array v_rows loop
    v_code := v_code || format($$
    if v_%1$s is null or octet_length(v_%1$s::text) > %2$s then
      v_truncated := true;
%3$s
    end if;$$, v_row, v_limit, notika._key_code(spec, v_row));
  end loop;
  return v_code;
end;
$body$;

comment on function notika._images_code(notika.workflow, text) is
  'What a trigger for each row does to have the rows before and after as json.';

create or replace function notika._row_code(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_has_snapshot boolean := notika._has_sources(spec.name);
  v_code text := '';
  v_append text;
begin
  if not spec.is_pinned and spec.watch is not null then
    v_code := format($$
  if tg_op = 'UPDATE' then
    if not notika._is_watched_change(new, old, tg_relid, %s) then
      return null;
    end if;
  end if;$$, spec.workflow_id);
  end if;

  if cardinality(spec.operations) = 1 then
    v_code := v_code || notika._images_code(spec, spec.operations[1]);
  else
    v_code := v_code || (
      select string_agg(
               format(case when o.place = 1 then $$
  if tg_op = %1$L then$$ when o.place < cardinality(spec.operations) then $$
  elsif tg_op = %1$L then$$ else $$
  else$$ end || $$
    v_operation := %2$L;%3$s$$, upper(o.name), o.name, notika._images_code(spec, o.name)),
               '' order by o.place)
        from unnest(spec.operations) with ordinality as o (name, place)
    ) || $$
  end if;$$;
  end if;

  v_append := format($$
    insert into notika.event_log_%%s
      (workflow_id, operation, new, old, truncated, cause_id, depth%s)
    values
      (%s, %s, v_new, v_old, v_truncated, v_cause_id, v_depth%s);$$,
    case when v_has_snapshot then ', snapshot' end,
    spec.workflow_id,
    case when cardinality(spec.operations) = 1 then quote_literal(spec.operations[1])
         else 'v_operation' end,
    case when v_has_snapshot then ', pg_current_snapshot()' end);
  return v_code || format($$

  -- The row that was written gave the transaction its xid before this is read.
  v_segment := (pg_sequence_last_value('notika.control_seq') >> 1) %% 3;
  if v_segment = 0 then%s
  elsif v_segment = 1 then%s
  else%s
  end if;
$$, format(v_append, 0), format(v_append, 1), format(v_append, 2));
end;
$body$;

comment on function notika._row_code(notika.workflow) is
  'What the function of a trigger for each row does.';

create or replace function notika._set_aside()
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

comment on function notika._set_aside() is
  'Called for each row that is too big for an event; leaves it out, and a note that there is one.';

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
    insert into notika.event_log_%%1$s (workflow_id, operation, %1$s%%2$s%2$s)
    select %3$s, %4$L, c.image%%3$s%5$s
      from (
        select notika.payload_%3$s(r.*) as image
          from changed as r
        offset 0 -- so that it is made once
      ) as c
     where octet_length(c.image::text) <= %6$s or notika._set_aside();$$,
    v_image,
    case when v_has_snapshot then ', snapshot' end,
    spec.workflow_id,
    spec.operations[1],
    case when v_has_snapshot then ', pg_current_snapshot()' end,
    v_limit);
begin
  return format($$
  -- The rows that were written gave the transaction its xid before this is read.
  v_segment := (pg_sequence_last_value('notika.control_seq') >> 1) %% 3;
  -- What has variables in it would be planned anew for each statement.
  if v_cause_id is not null then
    if v_segment = 0 then%4$s
    elsif v_segment = 1 then%5$s
    else%6$s
    end if;
  elsif v_segment = 0 then%1$s
  elsif v_segment = 1 then%2$s
  else%3$s
  end if;
$$, format(v_append, 0, '', ''), format(v_append, 1, '', ''), format(v_append, 2, '', ''),
    format(v_append, 0, ', cause_id, depth', ', v_cause_id, v_depth'),
    format(v_append, 1, ', cause_id, depth', ', v_cause_id, v_depth'),
    format(v_append, 2, ', cause_id, depth', ', v_cause_id, v_depth'))
  || format($$
  if current_setting('notika.set_aside', true) = 'on' then
    perform set_config('notika.set_aside', '', true);
    execute format(
      'insert into notika.event_log_%%s
         (workflow_id, operation, %1$s, truncated, cause_id, depth%2$s)
       select $1, $2, %%s, true, $3, $4%3$s
         from changed as r
        where (octet_length(notika.payload_%4$s(r.*)::text) <= %5$s) is not true',
      v_segment,
      coalesce(notika._key_expression('r', tg_relid::regclass, %7$L::text[]), '''{}''::json'))
      using %4$s, %6$L::text, v_cause_id, v_depth;
  end if;
$$, v_image,
    case when v_has_snapshot then ', snapshot' end,
    case when v_has_snapshot then ', pg_current_snapshot()' end,
    spec.workflow_id,
    v_limit,
    spec.operations[1],
    coalesce(notika._compared(spec), '{}')::text);
end;
$body$;

comment on function notika._statement_code(notika.workflow) is
  'What the function of a trigger for each statement does.';

create or replace function notika._capture_definition(spec notika.workflow)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $body$
declare
  v_types oid[];
begin
  if spec.is_pinned and spec.columns is not null or notika._lists_columns(spec) then
    v_types := array(
      select a.atttypid
        from pg_attribute as a
       where a.attrelid = spec.relation and a.attnum > 0 and not a.attisdropped
         and (spec.columns is null or a.attname = any (spec.column_names)
              or a.attnum = any (notika._key_columns(spec.relation))) -- what is left of a big row
    );
  else
    v_types := array['point'::regtype]; -- any type may be added later
  end if;

  return format($template$create or replace function notika._capture_%1$s()
  returns trigger
  language plpgsql
  security definer
  set search_path = pg_catalog, pg_temp%2$s
as %3$s$template$,
    spec.workflow_id,
    notika._settings(v_types),
    notika._dollar_quoted(format($capture$
declare%1$s
  v_run text;
  v_cause_id bigint;
  v_depth smallint := 0;
  v_segment integer;
begin
  -- Anybody may set these, so they count only in sessions of the owner's members, and of runners.
  if concat(current_setting('notika.mute', true), current_setting('notika.run', true)) <> ''
     and notika._is_runner()
  then
    if current_setting('notika.mute', true) in ('on', 'true', '1', 'yes')
       and pg_has_role(session_user, current_user, 'member')
    then
      return null;
    end if;
    v_run := substring(current_setting('notika.run', true) from '^[0-9]{1,18}/[0-9]{1,4}$');
    v_cause_id := split_part(v_run, '/', 1);
    v_depth := coalesce(split_part(v_run, '/', 2)::smallint + 1, 0);
  end if;
%2$s
  -- After the insert: before it, a dispatcher could fall asleep in between.
  if pg_sequence_last_value('notika.control_seq') & 1 = 1 then
    perform notika._wake();
  end if;
  return null; -- an after trigger; the result is ignored
end;
$capture$,
    case spec.capture when 'row' then '
  v_operation text;
  v_new json;
  v_old json;
  v_truncated boolean := false;' end,
    case spec.capture when 'row' then notika._row_code(spec) else notika._statement_code(spec) end
    ), 'capture')
  );
end;
$body$;

comment on function notika._capture_definition(notika.workflow) is
  'The statement that makes the trigger function of a workflow.';

create or replace function notika._changed_expression(
  column_name text,
  type oid,
  collation_id oid default 0
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select format(
             case
               when t.oid >= 16384 or not exists (
                 select from pg_opclass as o
                  where o.opcdefault
                    and o.opcmethod = (select m.oid from pg_am as m where m.amname = 'btree')
                    and (
                      o.opcintype = coalesce(e.oid, t.oid)
                      or t.typtype = 'r' and o.opcintype = 'anyrange'::regtype
                      or t.typtype = 'm' and o.opcintype = 'anymultirange'::regtype
                      or exists (
                        select from pg_cast as c
                         where c.castsource = coalesce(e.oid, t.oid)
                           and c.casttarget = o.opcintype
                           and c.castmethod = 'b' and c.castcontext = 'i'
                      )
                    )
               )
               -- json has no equality, and comparing it would fail the user's update.
               then 'pg_catalog.format(''%%s'', old.%1$I) is distinct from '
                    'pg_catalog.format(''%%s'', new.%1$I)'
               -- A collation may find values equal that are not the same.
               when not l.collisdeterministic
               then 'old.%1$I collate "C" is distinct from new.%1$I collate "C"'
               else 'old.%1$I is distinct from new.%1$I'
             end,
             _changed_expression.column_name
           )
      from pg_type as t
      left join pg_type as e on e.oid = t.typelem and t.typcategory = 'A'
      left join pg_collation as l on l.oid = _changed_expression.collation_id
     where t.oid = notika._base_type(_changed_expression.type)
  );
end;
$$;

comment on function notika._changed_expression(text, oid, oid) is
  'SQL over new and old that is true when the column changed, whatever its type.';

create or replace function notika._trigger_definition(
  spec notika.workflow,
  relation regclass,
  operation text
)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_changed text := case operation when 'delete' then 'old' else 'new' end;
  v_filters text[];
begin
  if not spec.is_pinned and spec.condition is not null then
    v_filters := v_filters || format(
      'notika._passes_%s(%s, %s)', spec.workflow_id,
      case operation when 'delete' then 'null' else 'new.*' end, -- .*: a column may be called new
      case operation when 'insert' then 'null' else 'old.*' end
    );
  end if;
  if spec.is_pinned and operation = 'update' and spec.watch is not null then
    perform notika._expect_columns(_trigger_definition.relation, spec.watch);
    v_filters := v_filters || (
      select format('(%s)', string_agg(
               notika._changed_expression(w.name, a.atttypid, a.attcollation), ' or '
               order by w.place))
        from unnest(spec.watch) with ordinality as w (name, place)
        join pg_attribute as a
          on a.attrelid = _trigger_definition.relation and a.attname = w.name
    );
  end if;
  if spec.is_pinned and spec.condition is not null then
    v_filters := v_filters || format('(%s)', spec.condition);
  end if;
  if notika._is_held(spec) then
    -- Never false, but a dependency: what takes the payload function away with CASCADE takes the
    -- trigger away too, instead of leaving one that fails the user's writes.
    v_filters := v_filters || format(
      '(%L::pg_catalog.regprocedure is not null)',
      format('notika.payload_%s(%s)', spec.workflow_id,
             notika._quoted(_trigger_definition.relation))
    );
  end if;

  return format(
    E'create or replace trigger notika_%1$s_%2$s\n'
    '  after %2$s on %3$s\n'
    '%4$s%5$s'
    '  execute function notika._capture_%1$s()',
    spec.workflow_id,
    operation,
    notika._quoted(_trigger_definition.relation),
    case spec.capture when 'row' then E'  for each row\n'
      else format(E'  referencing %s table as changed\n  for each statement\n', v_changed) end,
    E'  when (' || array_to_string(v_filters, E'\n    and ') || E')\n'
  );
end;
$$;

comment on function notika._trigger_definition(notika.workflow, regclass, text) is
  'The statement that makes the trigger of a workflow for one operation.';
