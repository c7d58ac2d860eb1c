-- PgQ-style queue: events are appended to the current table of a queue, with their transaction; a batch is what lies
-- between two ticks, which are snapshots, and the consumer's place is one row that is updated.
-- Left out: the C code (the real insert is cheaper than this one in plpgsql), rotation, retries, the ticker's daemon.
create schema pgq;

create table pgq.queue (
  queue_name text primary key,
  cur_table integer not null default 0,
  data_prefix text not null,
  event_seq text not null
);
create sequence pgq.event_1_seq;
create table pgq.event_1_0 (
  ev_id bigint not null,
  ev_time timestamptz not null,
  ev_txid bigint not null default pg_current_xact_id()::text::bigint,
  ev_owner integer,
  ev_retry integer,
  ev_type text,
  ev_data text,
  ev_extra1 text,
  ev_extra2 text,
  ev_extra3 text,
  ev_extra4 text
);
create index on pgq.event_1_0 (ev_txid);
create table pgq.tick (
  tick_id bigint generated always as identity primary key,
  tick_time timestamptz not null default now(),
  tick_snapshot pg_snapshot not null default pg_current_snapshot()
);
create table pgq.subscription (consumer text primary key, last_tick bigint not null);

insert into pgq.queue values ('orders', 0, 'pgq.event_1', 'pgq.event_1_seq');
insert into pgq.tick default values;
insert into pgq.subscription values ('bench', 1);

create function pgq.insert_event(queue_name text, ev_type text, ev_data text, ev_extra1 text)
  returns bigint
  language plpgsql
as $$
declare
  v_queue pgq.queue;
  v_id bigint;
begin
  select q.* into v_queue from pgq.queue as q where q.queue_name = insert_event.queue_name;
  v_id := nextval(v_queue.event_seq);
  execute format(
    'insert into %s_%s (ev_id, ev_time, ev_type, ev_data, ev_extra1) values ($1, $2, $3, $4, $5)',
    v_queue.data_prefix, v_queue.cur_table
  ) using v_id, clock_timestamp(), ev_type, ev_data, ev_extra1;
  return v_id;
end;
$$;

create function pgq.capture() returns trigger language plpgsql as $$
begin
  perform pgq.insert_event(
    'orders', tg_op,
    case when tg_op = 'DELETE' then row_to_json(old) else row_to_json(new) end::text,
    tg_table_name
  );
  return null;
end;
$$;

create function pgq.take(ticks integer) returns setof pgq.event_1_0 language plpgsql as $$
declare
  v_from pgq.tick;
  v_to pgq.tick;
begin
  select t.* into v_from from pgq.tick as t join pgq.subscription as s on s.last_tick = t.tick_id;
  select t.* into v_to from pgq.tick as t
   where t.tick_id > v_from.tick_id and t.tick_id <= v_from.tick_id + ticks
   order by t.tick_id desc
   limit 1;
  if not found then
    return;
  end if;
  return query execute format($query$
    select * from pgq.event_1_0
     where ev_txid >= %1$s and ev_txid < %2$s and pg_visible_in_snapshot(ev_txid::text::xid8, %3$L)
    union all
    select * from pgq.event_1_0
     where ev_txid = any (%4$L::bigint[]) and pg_visible_in_snapshot(ev_txid::text::xid8, %3$L)$query$,
    pg_snapshot_xmax(v_from.tick_snapshot), pg_snapshot_xmax(v_to.tick_snapshot), v_to.tick_snapshot,
    array(select pg_snapshot_xip(v_from.tick_snapshot))
  );
  update pgq.subscription set last_tick = v_to.tick_id;
end;
$$;

-- A tick for every hundred events.
create procedure pgq.fill(events integer) language plpgsql as $$
begin
  for v_from in 1..events by 100 loop
    insert into pgq.event_1_0 (ev_id, ev_time, ev_type, ev_data)
    select n, clock_timestamp(), 'INSERT', bench.payload(n) from generate_series(v_from, v_from + 99) as n;
    commit;
    insert into pgq.tick default values;
    commit;
  end loop;
end;
$$;
