-- Alter and drop by hand, then --!include what changed in sql/.
drop function if exists notika.retry(bigint);
drop function if exists notika.publish(text, text, text[], text[], text[], text, text, text);
drop function if exists notika.plan(text, text, text[], text[], text[], text, text, text);
create or replace function notika._table(name text)
  returns regclass
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select c.oid
    from pg_class as c
    join pg_namespace as n on n.oid = c.relnamespace
   where n.nspname = (parse_ident(_table.name))[1]::name
     and c.relname = (parse_ident(_table.name))[2]::name
     and c.relkind in ('r', 'p');
$$;
do $$
begin
  if exists (
    select from pg_catalog.pg_attribute as a
     where a.attrelid = 'notika.workflow'::pg_catalog.regclass
       and a.attname = 'relation' and a.attgenerated = ''
  ) then
    -- What had been renamed and not been noticed yet is found by the name it has now.
    update notika.workflow as w
       set table_name = pg_catalog.format('%I.%I', n.nspname, c.relname)
      from pg_catalog.pg_class as c
      join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
     where c.oid = w.relation and w.unpublished_at is null and w.on_rename = 'follow';
    -- The views go on until they are replaced.
    alter table notika.workflow rename column relation to old_relation;
    alter table notika.workflow add column relation pg_catalog.regclass generated always as (
      case when unpublished_at is null then notika._table(table_name) end
    ) stored;
  end if;
end;
$$;
alter table notika.workflow add column if not exists options jsonb not null default '{}';
alter table notika.contract alter column type type oid;
alter table notika.contract_table alter column relation type oid;
drop function if exists notika._see_publications();
drop function if exists notika._commands(text);
drop function if exists notika._steps(notika.workflow, notika.workflow);
do $$
begin
  -- It had another result.
  if to_regprocedure('notika._split(text)') is not null and not exists (
    select from pg_catalog.pg_proc as p
     where p.oid = to_regprocedure('notika._split(text)') and 'bare' = any (p.proargnames)
  ) then
    drop function notika._split(text);
  end if;
end;
$$;
alter table notika.run_log set (autovacuum_vacuum_scale_factor = 0.05);
alter table notika.setting
  add column if not exists missed_after interval not null default '10 minutes',
  add column if not exists runs_kept interval not null default '30 days',
  drop constraint if exists setting_missed_after_check,
  add constraint setting_missed_after_check check (missed_after >= interval '0'),
  drop constraint if exists setting_runs_kept_check,
  add constraint setting_runs_kept_check check (runs_kept >= interval '0');
alter table notika.workflow alter column table_name drop not null;
alter table notika.workflow add column if not exists match text[];
alter table notika.workflow drop constraint if exists workflow_name_check;
alter table notika.workflow add constraint workflow_name_check check (
  name ~ '^[A-Za-z_][A-Za-z0-9_-]{0,62}(:[A-Za-z_][A-Za-z0-9_-]{0,62})?$'
);
alter table notika.event_log_0 add column if not exists snapshot pg_snapshot;
alter table notika.event_log_1 add column if not exists snapshot pg_snapshot;
alter table notika.event_log_2 add column if not exists snapshot pg_snapshot;
comment on column notika.event_log_1.snapshot is
  'What the change could see, where it starts a run that later changes may count for.';
comment on column notika.event_log_2.snapshot is
  'What the change could see, where it starts a run that later changes may count for.';
drop function if exists notika._capture_definition(integer, regclass, text[], text[], boolean);
drop function if exists notika._key(anyelement, regclass);
drop function if exists notika._specify(text, text, text[], text[], text[], text, text, text);

--!include 10_schema.sql
--!include 20_workflow.sql
--!include 30_event_log.sql
--!include 40_dispatch.sql
--!include 41_control.sql
--!include 42_batch.sql
--!include 43_line.sql
--!include 44_cron.sql
--!include 45_maintain.sql
--!include 46_schedule.sql
--!include 47_signal.sql
--!include 48_step.sql
--!include 49_wait_for.sql
--!include 50_run.sql
--!include 52_history.sql
--!include 60_capture.sql
--!include 64_options.sql
--!include 65_publish.sql
--!include 67_backfill.sql
--!include 68_backfill_page.sql
--!include 69_replay.sql
--!include 70_guard.sql
--!include 71_command.sql
--!include 72_judge.sql
--!include 75_ways_out.sql
--!include 77_check_ddl.sql
--!include 80_install.sql
--!include 82_roles.sql
--!include 83_wrong_rights.sql
--!include 84_owner.sql
--!include 86_uninstall.sql
--!include 90_grants.sql
alter table notika.workflow drop column if exists old_relation;
