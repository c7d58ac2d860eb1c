-- Follows changes: renamed columns, types and enum labels, replaced columns, and another key.
-- Each function adapts the contract to the catalog and records the change in guard_log.

create or replace function notika._rebind(spec notika.workflow, relation regclass, statement text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_is_other boolean := _rebind.relation is distinct from spec.relation;
  v_column text;
begin
  -- In another table, columns are found by name; attnum 0: there is no such column.  In the same
  -- table a column is found by its attnum.  If it was dropped, a column of the same name replaces
  -- it, unless that is another column of the contract under a new name.
  for v_column in
    update notika.contract as c
       set attnum = coalesce(b.attnum, 0),
           label_ids = case when b.type = c.type then c.label_ids
                            when c.labels = notika._labels(b.type) then notika._label_ids(b.type) end,
           -- Accept another enum of the same name if it has all labels.
           type = case when b.type_name = c.type_name
                        and (c.labels is null or c.labels <@ notika._labels(b.type))
                       then b.type else c.type end
      from notika.contract as o
      left join lateral (
        select a.attnum, a.atttypid as type, a.atttypmod as typmod,
               format_type(a.atttypid, a.atttypmod) as type_name
          from pg_attribute as a
         where a.attrelid = _rebind.relation and not a.attisdropped
           and case
                 when not v_is_other and exists (
                   select from pg_attribute as p
                    where p.attrelid = _rebind.relation and p.attnum = o.attnum and not p.attisdropped
                 ) then a.attnum = o.attnum
                 else a.attname = o.column_name and a.attnum > 0 and (v_is_other or not exists (
                   select from notika.contract as k
                    where k.workflow_id = o.workflow_id and k.attnum = a.attnum
                 ))
               end
      ) as b on true
     where c.workflow_id = spec.workflow_id
       and o.workflow_id = c.workflow_id and o.column_name = c.column_name
       and (v_is_other or b.attnum <> o.attnum or b.type <> o.type and b.type_name = o.type_name)
    returning case when not v_is_other and (b.type_name = o.type_name
                                            or (b.type, b.typmod) = (o.type, o.typmod))
                   then c.column_name end
  loop
    continue when v_column is null;
    perform notika._record(spec, 'healed', 'column_replaced',
                           format('%s.%I', spec.table_name, v_column), statement);
  end loop;
end;
$$;

comment on function notika._rebind(notika.workflow, regclass, text) is
  'Binds the contract of a workflow to the columns that have replaced dropped ones.';

create or replace function notika._follow_columns(before notika.workflow, after notika.workflow, statement text)
  returns boolean
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_column record;
begin
  -- If two columns of the contract would get the same name, one of them was dropped.  Keep the
  -- names until the verdict about the dropped column.
  if exists (
    select from notika.contract as c
      left join notika._renamed_columns(after) as r on r.old_name = c.column_name
     where c.workflow_id = after.workflow_id
     group by coalesce(r.new_name, c.column_name)
    having count(*) > 1
  ) then
    return false;
  end if;
  for v_column in select r.old_name, r.new_name from notika._renamed_columns(after) as r loop
    perform notika._record(before, 'followed', 'column_renamed',
                           format('%s.%I', before.table_name, v_column.old_name),
                           notika._statement_of(before.workflow_id, 'column_renamed',
                                                format('%s.%I', before.table_name, v_column.old_name),
                                                statement),
                           v_column.old_name, v_column.new_name);
  end loop;
  if found then
    -- In two updates, because columns may have swapped their names.
    update notika.contract as c
       set column_name = repeat(' ', 64) || c.attnum -- longer than any name
     where c.workflow_id = after.workflow_id
       and c.column_name in (select r.old_name from notika._renamed_columns(after) as r);
    update notika.contract as c
       set column_name = a.attname
      from pg_attribute as a
     where c.workflow_id = after.workflow_id and a.attrelid = after.relation and a.attnum = c.attnum
       and c.column_name = repeat(' ', 64) || c.attnum;
  end if;
  return true;
end;
$$;

comment on function notika._follow_columns(notika.workflow, notika.workflow, text) is
  'Follows renamed columns in the contract of a workflow. Returns false, without a change, if two '
  'columns would have the same name.';

create or replace function notika._follow_labels(before notika.workflow, after notika.workflow, statement text)
  returns notika.workflow
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_after notika.workflow := _follow_labels.after;
  v_column record;
  v_type oid;
begin
  update notika.contract as c
     set type_name = format_type(c.type, c.typmod) -- the type may have been renamed
   where c.workflow_id = after.workflow_id
     and c.type >= 16384 and c.type_name <> format_type(c.type, c.typmod)
     and exists (select from pg_type as t where t.oid = c.type);

  for v_column in
    select c.column_name, c.type, c.labels, c.label_ids, n.labels as new_labels, n.label_ids as new_label_ids,
           notika._has_labels(c) as has_labels
      from notika.contract as c
      join pg_attribute as a
        on a.attrelid = after.relation and a.attnum = c.attnum and a.atttypid = c.type
     cross join lateral (
       select notika._labels(a.atttypid), notika._label_ids(a.atttypid)
     ) as n (labels, label_ids)
     where c.workflow_id = after.workflow_id and c.labels is not null
       and (c.labels, c.label_ids) is distinct from (n.labels, n.label_ids)
  loop
    update notika.contract as c
       set labels = v_column.new_labels, label_ids = v_column.new_label_ids
     where c.workflow_id = after.workflow_id and c.column_name = v_column.column_name;
    continue when v_column.has_labels;
    perform notika._record(before, 'followed', 'label_renamed',
                           format('%s.%I', before.table_name, v_column.column_name),
                           notika._statement_of(before.workflow_id, 'label_renamed',
                                                format('%s.%I', before.table_name, v_column.column_name),
                                                statement),
                           v_column.labels::text, v_column.new_labels::text);
    for v_type in
      select l.type
        from notika._leaf_types(v_column.type) as l (type)
        join pg_type as t on t.oid = l.type and t.typtype = 'e'
    loop
      v_after := notika._relabel(v_after, v_type, r.old_labels, r.new_labels)
         from (
           select array_agg(l.label) as old_labels, array_agg(e.enumlabel::text) as new_labels
             from unnest(v_column.labels, v_column.label_ids) as l (label, id)
             join pg_enum as e on e.enumtypid = v_type and e.oid = l.id
            where e.enumlabel <> l.label
         ) as r;
    end loop;
  end loop;
  return v_after;
end;
$$;

comment on function notika._follow_labels(notika.workflow, notika.workflow, text) is
  'Follows renamed types and enum labels in the contract of a workflow and in its condition.';

create or replace function notika._relabel(
  spec notika.workflow,
  type oid,
  old_labels text[],
  new_labels text[]
)
  returns notika.workflow
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
  set quote_all_identifiers = off
as $$
declare
  v_spec notika.workflow := _relabel.spec;
  -- The pattern matches quoted names too, so that a quote in a name does not start a string.
  v_pattern constant text := '''(?:[^'']|'''')*''|(?:[^''"]|"(?:[^"]|"")*")+';
  v_cast constant text := '^(::text\))?::'
    || regexp_replace(format_type(_relabel.type, null), '([^\w\s])', '\\\1', 'g') || '(?![\w$."])';
  v_old constant text[] := array(
    select quote_literal(u.label)
      from unnest(old_labels) with ordinality as u (label, place) order by u.place);
  v_new constant text[] := array(
    select quote_literal(u.label)
      from unnest(new_labels) with ordinality as u (label, place) order by u.place);
  v_before text[]; -- the strings, as Postgres prints them
  v_given text[]; -- the strings and the text between them, as the caller wrote them
  v_is_label boolean[];
  v_string integer := 0;
begin
  if spec.condition is null then
    return v_spec;
  end if;
  -- Postgres prints a condition with a cast after each string, which shows its type.
  select array_agg(t.is_label order by t.place) filter (where t.token like '''%'),
         array_agg(t.token order by t.place) filter (where t.token like '''%'),
         string_agg(case when t.is_label then v_new[array_position(v_old, t.token)] else t.token end, ''
                    order by t.place)
    into v_is_label, v_before, v_spec.condition_sql
    from (
      select m.token[1] as token, m.place,
             m.token[1] = any (v_old)
             and coalesce(lead(m.token[1]) over (order by m.place) ~ v_cast, false) as is_label
        from regexp_matches(v_spec.condition_sql, v_pattern, 'g') with ordinality as m (token, place)
    ) as t;

  -- A string with the same text need not be a label.  If both conditions have the same strings, the
  -- place of a string in the printed one decides.
  v_given := array(select m[1] from regexp_matches(v_spec.condition, v_pattern, 'g') as m);
  if v_before is distinct from array(select t from unnest(v_given) as t where t like '''%') then
    v_is_label := null;
  end if;
  for v_place in 1 .. coalesce(cardinality(v_given), 0) loop
    continue when v_given[v_place] not like '''%';
    v_string := v_string + 1;
    if v_given[v_place] = any (v_old) and coalesce(v_is_label[v_string], true) then
      v_given[v_place] := v_new[array_position(v_old, v_given[v_place])];
    end if;
  end loop;
  v_spec.condition := array_to_string(v_given, '');
  return v_spec;
end;
$$;

comment on function notika._relabel(notika.workflow, oid, text[], text[]) is
  'A workflow whose condition has the new labels of an enum. All labels are replaced at once, '
  'because they may be swapped.';

create or replace function notika._follow_key(spec notika.workflow)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_before notika.workflow;
  v_capture constant text := 'create or replace function notika._capture_';
begin
  if array(
       select format('%s %s %s', k.attnum, k.type, k.column_name)
         from notika.contract_key as k
        where k.workflow_id = spec.workflow_id
        order by k.place
     ) = array(
       select format('%s %s %s', k.attnum, k.type, k.column_name)
         from notika._key_of(spec.relation) as k
        order by k.place
     )
  then
    return;
  end if;
  perform notika._bind_key(spec.workflow_id);

  -- If more than the key has changed, leave the repair to publish or install.
  select w.* into v_before from notika.workflow as w where w.workflow_id = spec.workflow_id;
  spec.capture := v_before.capture;
  spec.is_pinned := v_before.is_pinned;
  if array(select d from unnest(v_before.definition) as d where not starts_with(d, v_capture))
     = array(select d from unnest(notika._definition(spec)) as d where not starts_with(d, v_capture))
  then
    perform notika._renew_capture(v_before, spec);
  end if;
end;
$$;

comment on function notika._follow_key(notika.workflow) is
  'Records a new key of a workflow''s table and creates its capture functions again.';
