-- pgmq-style queue: send() writes a jsonb message to a table that is found by the name of its queue; a batch is read
-- by making it invisible for a while, and deleted once it is done.
-- Left out: the other functions that a message passes through on its way to the insert, archives, headers, partitions,
-- notifications.
create schema pgmq;

create table pgmq.q_orders (
  msg_id bigint generated always as identity primary key,
  read_ct integer not null default 0,
  enqueued_at timestamptz not null default now(),
  vt timestamptz not null,
  message jsonb,
  headers jsonb
);
create index on pgmq.q_orders (vt);

create function pgmq.send(queue_name text, msg jsonb) returns setof bigint language plpgsql as $$
begin
  return query execute format(
    'insert into pgmq.%I (vt, message, headers) values ($1, $2, $3) returning msg_id', 'q_' || lower(queue_name)
  ) using clock_timestamp(), msg, null::jsonb;
end;
$$;

create function pgmq.capture() returns trigger language plpgsql as $$
begin
  perform pgmq.send('orders', jsonb_build_object(
    'op', tg_op,
    'old', case when tg_op <> 'INSERT' then to_jsonb(old) end,
    'new', case when tg_op <> 'DELETE' then to_jsonb(new) end
  ));
  return null;
end;
$$;

create function pgmq.read(queue_name text, seconds integer, most integer)
  returns setof pgmq.q_orders
  language plpgsql
as $$
begin
  return query execute format($query$
    with visible as (
      select msg_id from pgmq.%1$I
       where vt <= clock_timestamp()
       order by msg_id
       limit $1
         for update skip locked
    )
    update pgmq.%1$I as m
       set vt = clock_timestamp() + $2, read_ct = read_ct + 1
      from visible
     where m.msg_id = visible.msg_id
    returning m.*$query$, 'q_' || lower(queue_name)
  ) using most, make_interval(secs => seconds);
end;
$$;

create function pgmq.delete(queue_name text, msg_ids bigint[]) returns setof bigint language plpgsql as $$
begin
  return query execute format(
    'delete from pgmq.%I where msg_id = any ($1) returning msg_id', 'q_' || lower(queue_name)
  ) using msg_ids;
end;
$$;

create function pgmq.fill(events integer) returns void language sql as $$
  insert into pgmq.q_orders (vt, message)
  select clock_timestamp(), json_build_object('op', 'INSERT', 'old', null, 'new', bench.payload(n))
    from generate_series(1, events) as n;
$$;
