-- Alter and drop by hand, then --!include what changed in sql/.
drop function if exists notika.retry(bigint);
--!include 10_schema.sql
--!include 45_maintain.sql
--!include 48_step.sql
--!include 50_run.sql
--!include 90_grants.sql
