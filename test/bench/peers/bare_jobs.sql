-- Constant jobs: the least that a hand-over costs which makes a job of each event, in a table made like graphile-worker's.
-- Left out: all that concerns events; none are read, and none would be missed.
create schema bare_jobs;

create table bare_jobs.job (like notika_worker._private_jobs including all);
create sequence bare_jobs.event_id_seq;

create function bare_jobs.make(jobs integer) returns integer language plpgsql as $$
begin
  insert into bare_jobs.job (task_id, payload, key)
  select 1, '{"id" : "1", "workflow" : "change", "operation" : "insert", "table" : "bench.orders", '
         '"at" : "2026-01-01T00:00:00.000000Z", "new" : {"id":"1","customer_id":"1","status":"paid","amount":"12.50"}, '
         '"old" : null, "truncated" : null, "depth" : 0}',
         nextval('bare_jobs.event_id_seq')::text
    from generate_series(1, jobs);
  return jobs;
end;
$$;
