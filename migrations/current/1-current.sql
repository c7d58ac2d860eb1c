-- Alter and drop by hand, then --!include what changed in sql/.

drop function if exists notika._call(notika.workflow);
drop function if exists notika._segment_code(text);
drop function if exists notika._object_expression(text[], text[]);

--!include 10_schema.sql
--!include 30_event_log.sql
--!include 40_dispatch.sql
--!include 60_capture.sql
--!include 61_trigger.sql
--!include 62_loose.sql
--!include 65_publish.sql
--!include 67_backfill.sql
--!include 68_backfill_page.sql
--!include 70_guard.sql
--!include 90_grants.sql
