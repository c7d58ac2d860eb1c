-- Hasura-style event trigger: the row before and after as json, in a row with a uuid and the columns of its
-- delivery, with its indexes, written in a subtransaction as there. By default it sends the whole row; `capture_columns`
-- sends four columns, which one can ask for. Events are claimed with an update of what is not locked, in the order of
-- creation.
-- Left out: a function for each operation and the dummy rows that it makes for inserts and deletes, the log of
-- invocations, marking events as delivered, retries, and all that calls the webhook.
create schema hasura;

create table hasura.event_log (
  id text primary key default gen_random_uuid(),
  schema_name text not null,
  table_name text not null,
  trigger_name text not null,
  payload jsonb not null,
  delivered boolean not null default false,
  error boolean not null default false,
  tries integer not null default 0,
  created_at timestamp not null default now(),
  locked timestamptz,
  next_retry_at timestamp,
  archived boolean not null default false
);
create index on hasura.event_log (trigger_name);
create index on hasura.event_log (locked nulls first, next_retry_at nulls first, created_at)
 where not delivered and not error and not archived;

create function hasura.log_event(schema_name text, table_name text, trigger_name text, op text, row_data json)
  returns text
  language plpgsql
as $$
declare
  v_id text := gen_random_uuid();
begin
  insert into hasura.event_log (id, schema_name, table_name, trigger_name, payload)
  values (
    v_id, log_event.schema_name, log_event.table_name, log_event.trigger_name,
    json_build_object(
      'op', op,
      'data', row_data,
      'session_variables', nullif(current_setting('hasura.user', true), '')::json,
      'trace_context', nullif(current_setting('hasura.tracecontext', true), '')::json
    )
  );
  return v_id;
end;
$$;

do $do$
declare
  v_function record;
begin
  for v_function in
    select f.*
      from (
        values ('capture', 'row_to_json(%1$s)'),
               ('capture_columns',
                'row_to_json((select c from (select %1$s.id, %1$s.customer_id, %1$s.status, %1$s.amount) as c))')
      ) as f (name, image)
  loop
    execute format($template$
      create function hasura.%I() returns trigger language plpgsql as $$
      declare
        v_data json := json_build_object(
          'old', case when tg_op <> 'INSERT' then %s end,
          'new', case when tg_op <> 'DELETE' then %s end
        );
      begin
        -- Types such as json have no equality, which is found out by trying: a subtransaction for each row.
        begin
          if tg_op <> 'UPDATE' or old <> new then
            perform hasura.log_event(tg_table_schema, tg_table_name, tg_name, tg_op, v_data);
          end if;
        exception
          when undefined_function then
            if old *<> new then
              perform hasura.log_event(tg_table_schema, tg_table_name, tg_name, tg_op, v_data);
            end if;
        end;
        return null;
      end;
      $$
      $template$,
      v_function.name, format(v_function.image, 'old'), format(v_function.image, 'new'));
  end loop;
end;
$do$;

create function hasura.take(most integer) returns setof hasura.event_log language sql as $$
  update hasura.event_log
     set locked = now()
   where id in (
     select l.id
       from hasura.event_log as l
      where not l.delivered and not l.error and not l.archived
        and (l.locked is null or l.locked < now() - interval '30 minutes')
        and (l.next_retry_at is null or l.next_retry_at <= now())
      order by l.locked nulls first, l.next_retry_at nulls first, l.created_at
      limit most
        for update skip locked
   )
  returning *;
$$;

create function hasura.fill(events integer) returns void language sql as $$
  insert into hasura.event_log (schema_name, table_name, trigger_name, payload)
  select 'bench', 'orders', 'capture',
         json_build_object('op', 'INSERT', 'data', json_build_object('old', null, 'new', bench.payload(n)))
    from generate_series(1, events) as n;
$$;
