-- Facts about a workflow that many files need: its names, keys and options, and who may change it.
-- A source of a workflow is a row of notika.workflow with the name workflow:source.

create or replace function notika._workflow_of(name text)
  returns text
  language sql
  immutable
begin atomic
  select nullif(split_part(name, ':', 1), name);
end;

comment on function notika._workflow_of(text) is
  'The workflow that a source of this name belongs to; null: the name is that of a workflow.';

create or replace function notika._captured(is_due boolean default false)
  returns table (name text)
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return query
    select w.name
      from notika.workflow as w
     where w.unpublished_at is null and w.table_name is not null
       and (not is_due or w.made_by is distinct from notika._code())
     order by w.name;
end;
$$;

comment on function notika._captured(boolean) is
  'The workflows that are published on a table. is_due: only those whose functions and triggers '
  'were last created or compared by other code than the installed.';

create or replace view notika.workflows as
select w.name as workflow,
       case when c.oid is null then w.table_name
            else format('%I.%I', n.nspname, c.relname) end as table_name,
       w.operations,
       w.columns,
       w.watch,
       w.condition,
       w.capture,
       w.guard,
       w.on_rename,
       case
         when w.broken_reason is not null then 'broken'
         when w.paused_at is not null then 'paused'
         else 'published'
       end as state,
       w.broken_reason as reason,
       w.published_at,
       w.published_by,
       w.options,
       w.match
  from notika.workflow as w
  left join pg_catalog.pg_class as c on c.oid = w.relation
  left join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
 where w.unpublished_at is null;

comment on view notika.workflows is
  'The published workflows and their sources. A source, workflow:source, captures changes that the '
  'runs of the workflow wait for.';

comment on column notika.workflows.workflow is
  'The name of the workflow; for a source, workflow:source.';

comment on column notika.workflows.table_name is
  'The current name of the table; null: the workflow has no table and starts in other ways.';

comment on column notika.workflows.operations is
  'The captured operations, any of insert, update, delete.';

comment on column notika.workflows.columns is 'The columns in the payload; null: the whole row.';

comment on column notika.workflows.watch is
  'An update is captured only when one of these columns changes; null: every update is.';

comment on column notika.workflows.condition is
  'SQL over new and old, as the caller wrote it; only changes that meet it are captured.';

comment on column notika.workflows.capture is
  'The kind of trigger that publish chose: row, called for each row, or statement, called once for '
  'all rows of a statement. statement is used only for whole inserts or deletes, where no '
  'partitions, inheritance or other triggers interfere.';

comment on column notika.workflows.guard is
  'What the guard does about DDL that breaks the contract: block, warn or off.';

comment on column notika.workflows.on_rename is
  'What the guard does about the rename of a column or table: follow or block.';

comment on column notika.workflows.state is
  'published, paused (changes are captured, runs are held) or broken (runs are held).';

comment on column notika.workflows.reason is
  'The finding that broke the workflow; null: it is not broken.';

comment on column notika.workflows.published_at is
  'When the workflow was last published or changed.';

comment on column notika.workflows.published_by is
  'The role that published the workflow; its members may change it.';

comment on column notika.workflows.options is
  'The options that are set: key, concurrency, order, debounce, digest, schedule or priority.';

comment on column notika.workflows.match is
  'For a source, the payload keys whose values must be the same in a change and in the run that '
  'waits for it; null: not a source.';

create or replace function notika._has_lines(options jsonb)
  returns boolean
  language sql
  immutable
begin atomic
  select options ?| '{concurrency,order,debounce,digest}'::text[];
end;

comment on function notika._has_lines(jsonb) is
  'Whether runs with these options must be admitted at the start of each attempt.';

create or replace function notika._flags(workflow text)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select array_agg('gated'::text)
    from notika.workflow as w
   where w.name = _flags.workflow and notika._has_lines(w.options);
$$;

comment on function notika._flags(text) is
  'The flags of a workflow''s jobs: gated if its runs must be admitted; otherwise null.';

create or replace function notika._has_sources(workflow text)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select exists (
    select from notika.workflow as s
     where strpos(s.name, ':') > 0 and split_part(s.name, ':', 1) = _has_sources.workflow
       and s.unpublished_at is null
  );
$$;

comment on function notika._has_sources(text) is
  'Whether a workflow has published sources, whose changes its runs may wait for or be cancelled '
  'by.';

create or replace function notika._match_keys(match text[])
  returns text[]
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select array(
    select split_part(m.item, '=', 1)
      from unnest(_match_keys.match) with ordinality as m (item, place)
     order by m.place
  );
$$;

comment on function notika._match_keys(text[]) is
  'The payload keys of a source that waits compare: in an item a=b, the a.';

create or replace function notika._run_keys(match text[])
  returns text[]
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select array(
    select coalesce(nullif(split_part(m.item, '=', 2), ''), m.item)
      from unnest(_run_keys.match) with ordinality as m (item, place)
     order by m.place
  );
$$;

comment on function notika._run_keys(text[]) is
  'The payload keys of the run''s own event that a cancelling change is compared with: in an item '
  'a=b, the b.';

create or replace function notika._published(workflow text)
  returns integer
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer;
begin
  select w.workflow_id into v_workflow_id
    from notika.workflow as w
   where w.name = _published.workflow and w.unpublished_at is null;
  if not found then
    raise exception 'workflow "%" is not published', _published.workflow
      using errcode = 'undefined_object',
            hint = format('Publish it first: select notika.publish(%L, ''<schema>.<table>''); '
                          'See the published workflows: select workflow from notika.workflows;',
                          _published.workflow);
  end if;
  return v_workflow_id;
end;
$$;

comment on function notika._published(text) is
  'The id of a published workflow. Raises an error if there is none.';

create or replace function notika._is_copy()
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  return exists (
    select from notika.guard_state as s
     where s.workflow_table <> 'notika.workflow'::regclass::oid
  );
end;
$$;

comment on function notika._is_copy() is
  'Whether this is a restored copy whose workflows have not been bound to its tables yet.';

create or replace function notika._payload_keys(spec notika.workflow)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select coalesce((spec).columns, array(
    select a.attname::text
      from pg_attribute as a
     where a.attrelid = (spec).relation and a.attnum > 0 and not a.attisdropped
     order by a.attnum
  ));
$$;

comment on function notika._payload_keys(notika.workflow) is
  'The keys that new and old have in the events of a workflow.';

create or replace function notika._publish_call(spec notika.workflow, shown text default null)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select format(
    'select notika.publish(%L, %L%s%s%s%s%s%s%s%s);',
    (spec).name,
    (spec).table_name,
    ', operations => ' || quote_literal((spec).operations::text),
    ', columns => ' || quote_literal((spec).columns::text),
    ', watch => ' || quote_literal((spec).watch::text),
    ', condition => ' || quote_literal((spec).condition),
    case when (spec).guard <> 'block' or shown = 'guard'
         then ', guard => ' || quote_literal((spec).guard) end,
    case when (spec).on_rename <> 'follow' or shown = 'on_rename'
         then ', on_rename => ' || quote_literal((spec).on_rename) end,
    ', options => ' || quote_literal(nullif((spec).options, '{}')::text),
    ', match => ' || quote_literal((spec).match::text)
  );
$$;

comment on function notika._publish_call(notika.workflow, text) is
  'The publish() call that yields this workflow. Defaults are left out, except for the option '
  'named by shown.';

create or replace function notika._may_decide(spec notika.workflow, caller name)
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select pg_has_role(_may_decide.caller, current_user, 'member')
      or coalesce((
           select pg_has_role(_may_decide.caller, r.oid, 'member')
             from pg_roles as r
            where r.oid = (spec).publisher_id
         ), false)
      or coalesce((
           select pg_has_role(_may_decide.caller, c.relowner, 'member')
             from pg_class as c
            where c.oid = (spec).relation
         ), false);
$$;

comment on function notika._may_decide(notika.workflow, name) is
  'Whether a role is a member of the role that published a workflow, of the owner of its table, or '
  'of the owner of Notika.';

create or replace function notika._expect_decider(spec notika.workflow, caller name, or_runner boolean default false)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_owner oid := (select c.relowner from pg_class as c where c.oid = spec.relation);
begin
  if notika._may_decide(spec, caller)
     or or_runner and has_function_privilege(caller, 'notika.dispatch(integer)', 'execute')
  then
    return;
  end if;
  raise exception 'role "%" may not decide about workflow "%"', caller, spec.name
    using errcode = 'insufficient_privilege',
          detail = format('It was published by "%s"%s. It may be changed by members of %s.',
                     spec.published_by,
                     case when v_owner is not null
                          then format(', its table is owned by "%s"', pg_get_userbyid(v_owner)) end,
                     case when v_owner is not null then 'these roles and of the owner of Notika'
                          else 'this role and of the owner of Notika' end),
          hint = format('Let a member of one of these roles do it, or an administrator run: grant %I to %I;',
                        -- Membership in a superuser should not be granted.
                        coalesce((
                          select r.rolname from pg_roles as r
                           where r.oid in (v_owner, spec.publisher_id) and not r.rolsuper
                           order by r.oid = v_owner desc
                           limit 1
                        ), current_user), caller);
end;
$$;

comment on function notika._expect_decider(notika.workflow, name, boolean) is
  'Raises an error unless the caller may change a workflow or, with or_runner, is a runner.';

create or replace function notika._compared(spec notika.workflow)
  returns text[]
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case
    when notika._workflow_of((spec).name) is not null then notika._match_keys((spec).match)
    else (
      select notika._run_keys(c.match)
        from notika.workflow as c
       where c.name = (spec).name || ':cancel' and c.unpublished_at is null
    )
  end;
$$;

comment on function notika._compared(notika.workflow) is
  'The columns that every event of a workflow or source must carry, because waits compare them; '
  'null: none.';
