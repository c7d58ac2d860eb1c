-- The least that a trigger costs which keeps something for each row: `capture_row` appends a constant to a table of one
-- column without an index, `capture_event` appends a constant to a table that is made like Notika's log, and
-- `capture_events` one for each row of a statement. What Notika adds to these is the filter, the row as json, and finding
-- the segment.
-- Left out: everything else. Nobody could read what was changed.
create schema append;

create table append.log (new json);
create table append.event_log (like notika.event_log_0 including defaults including indexes);

create function append.capture_row() returns trigger language plpgsql as $$
begin
  insert into append.log (new) values ('{"id" : "1"}');
  return null;
end;
$$;

create function append.capture_event() returns trigger language plpgsql as $$
begin
  insert into append.event_log (workflow_id, operation, new) values (1, 'insert', '{"id" : "1"}');
  return null;
end;
$$;

create function append.capture_events() returns trigger language plpgsql as $$
begin
  insert into append.event_log (workflow_id, operation, new) select 1, 'insert', '{"id" : "1"}' from changed;
  return null;
end;
$$;
