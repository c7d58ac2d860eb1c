-- Alter and drop by hand, then --!include what changed in sql/.
drop function if exists notika._capture_definition(integer, regclass, text[], text[], boolean, boolean, text[]);
drop function if exists notika._trigger_definition(integer, regclass, text, text[], text[], text, boolean);
drop function if exists notika._capture_statement(notika.workflow);
-- pgls-ignore lint/safety/lockTimeoutWarning: nobody holds it for long
alter table notika.runner add column if not exists suspected_at timestamptz;
-- pgls-ignore lint/safety/lockTimeoutWarning: nobody holds it for long
-- pgls-ignore lint/safety/avoidWideLockWindow: both are small
-- pgls-ignore lint/safety/runningStatementWhileHoldingAccessExclusive: both are small
alter table notika.workflow
  drop constraint if exists workflow_capture_check,
  add constraint workflow_capture_check check (capture in ('row', 'statement'));
--!include 10_schema.sql
--!include 20_workflow.sql
--!include 40_dispatch.sql
--!include 41_control.sql
--!include 44_cron.sql
--!include 45_maintain.sql
--!include 46_schedule.sql
--!include 47_signal.sql
--!include 48_step.sql
--!include 50_run.sql
--!include 51_claim.sql
--!include 52_history.sql
--!include 60_capture.sql
--!include 61_trigger.sql
--!include 62_loose.sql
--!include 64_options.sql
--!include 65_publish.sql
--!include 67_backfill.sql
--!include 68_backfill_page.sql
--!include 70_guard.sql
--!include 71_command.sql
--!include 72_judge.sql
--!include 75_ways_out.sql
--!include 77_check_ddl.sql
--!include 78_copy.sql
--!include 80_install.sql
--!include 82_roles.sql
--!include 84_owner.sql
--!include 90_grants.sql
