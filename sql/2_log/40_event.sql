-- Events in the form that users and tasks see.

create or replace function notika._payload(
  event notika._event,
  workflow text,
  table_name text
)
  returns json
  language sql
  stable
begin atomic
  -- Written as json_build_object would, which, like format(), looks up the type of each argument
  -- for each event. Names of workflows and operations need no escapes.
  select (
    '{"id" : "' || (event).event_id::text || '", "workflow" : "' || workflow
    || '", "operation" : "' || (event).operation
    || '", "table" : ' || coalesce(to_json(table_name)::text, 'null')
    || ', "at" : "'
    || to_char((event).captured_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
    || '", "new" : ' || coalesce((event).new::text, 'null')
    || ', "old" : ' || coalesce((event).old::text, 'null')
    || ', "truncated" : ' || coalesce((event).truncated::text, 'null')
    || ', "depth" : ' || coalesce((event).depth::text, 'null') || '}'
  )::json;
end;

comment on function notika._payload(notika._event, text, text) is
  'The event in the form that a task receives.';

create or replace function notika._captured_at(payload json)
  returns timestamptz
  language sql
  stable
begin atomic
  -- Not with ->>, which refuses a payload that contains \u0000, nor with a pattern, which takes
  -- six times as long.
  select nullif(split_part(split_part(payload::text, '"at" : "', 2), '"', 1), '')::timestamptz;
end;

comment on function notika._captured_at(json) is
  'When an event in the form that a task receives was captured.';

create or replace function notika._is_later(
  event_id bigint,
  xid xid8,
  run_id bigint,
  run_xid xid8,
  run_snapshot pg_snapshot
)
  returns boolean
  language sql
  immutable
begin atomic
  select event_id > run_id
      or coalesce(
           xid <> run_xid and not pg_visible_in_snapshot(xid, run_snapshot), false
         );
end;

comment on function notika._is_later(bigint, xid8, bigint, xid8, pg_snapshot) is
  'Whether a change counts as later than the one that started a run.';

create or replace view notika.event_log as
select e.event_id,
       w.name as workflow,
       e.operation,
       case when c.oid is null then w.table_name
            else format('%I.%I', n.nspname, c.relname) end as table_name,
       e.captured_at as at,
       e.new,
       e.old,
       e.truncated,
       e.depth,
       notika._dispatched(e.event_id, e.xid, e.workflow_id, p) as dispatched,
       e.cause_id
  from notika._event as e
  join notika.workflow as w on w.workflow_id = e.workflow_id
  left join pg_catalog.pg_class as c on c.oid = w.relation
  left join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
 cross join (
   select q as p from notika.position as q order by q.position_id desc limit 1
 ) as newest;

comment on view notika.event_log is
  'The ring: captured events, dispatched or not, until their segment is used again.';

comment on column notika.event_log.event_id is 'The id of the event, and of its run.';

comment on column notika.event_log.workflow is 'The workflow that the event is for.';

comment on column notika.event_log.operation is
  'insert, update or delete; emit, schedule, backfill or replay for other starts.';

comment on column notika.event_log.table_name is 'The current name of the table.';

comment on column notika.event_log.at is 'When the change was captured.';

comment on column notika.event_log.new is
  'The published columns after the change. The type is json, because jsonb refuses some text that '
  'json accepts.';

comment on column notika.event_log.old is 'The published columns before the change.';

comment on column notika.event_log.truncated is
  'Whether new and old were reduced to the key, because the row was too large.';

comment on column notika.event_log.depth is
  'The number of runs between this event and a change that no run made.';

comment on column notika.event_log.dispatched is
  'Whether the event has been dispatched to graphile-worker.';

comment on column notika.event_log.cause_id is 'The run that made the change; null if no run did.';
