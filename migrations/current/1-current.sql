-- Alter and drop by hand, then --!include what changed in sql/.

--!include 10_schema.sql
--!include 20_workflow.sql
--!include 50_run.sql
--!include 72_judge.sql
--!include 75_ways_out.sql
--!include 90_grants.sql
