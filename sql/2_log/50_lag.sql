-- Events that have not been dispatched, and what delays them.

create or replace view notika._blocker as
select b.holder, b.holds, b.blocks, b.since, b.remedy
  from (
    with recursive here as materialized (
      select p.pending_xids, notika._bound(p) as bound, p as position
        from notika.position as p
       order by p.position_id desc
       limit 1
    ), lock as materialized (
      select k.pid, k.relation, k.mode, k.granted, k.waitstart, k.transactionid,
             k.locktype = 'tuple' as is_row, c.oid is not null as is_ours,
             k.relation = 'notika.dispatch_lock'::regclass
               and k.mode = 'ShareUpdateExclusiveLock' and k.granted as hands_over,
             k.locktype = 'relation' and k.mode in (
               'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'
             ) as is_strong
        from pg_catalog.pg_locks as k
        left join pg_catalog.pg_class as c
          on c.oid = k.relation and c.relnamespace = any (notika._own_schemas())
       where k.pid is not null -- a prepared transaction has none
         and (k.database is null or k.database = (
               select d.oid from pg_catalog.pg_database as d
                where d.datname = pg_catalog.current_database()
             ))
    ), waiting as (
      -- The session waits for a relation or a row of Notika's. A session that waits for a row
      -- waits for the transaction that has locked it.
      select w.pid, w.is_strong
        from lock as w
       where not w.granted
         and w.waitstart < pg_catalog.clock_timestamp() - interval '500 milliseconds'
         and (w.is_ours or exists (
           select from lock as h
            where h.pid = w.pid and h.granted and h.is_ours and (h.is_row or h.hands_over)
         ))
    ), blocking as (
      select b.pid, w.pid as waits
        from waiting as w
       cross join unnest(pg_catalog.pg_blocking_pids(w.pid)) as b (pid)
      union
      select b.pid, f.pid
        from blocking as f
       cross join unnest(pg_catalog.pg_blocking_pids(f.pid)) as b (pid)
    ), session as materialized (
      select a.pid, a.backend_xid, a.xact_start as since,
             format('pid %s (%s)', a.pid, coalesce(
               nullif(concat_ws(', ', a.usename, nullif(a.application_name, '')), ''),
               a.backend_type, 'a process of the server')) as holder,
             -- Not every role may see when a transaction began. Every role that may read this sees
             -- whether events wait.
             coalesce(
               a.xact_start < pg_catalog.clock_timestamp() - interval '500 milliseconds',
               exists (
                 select from here as h
                   join notika._event as e on e.event_id > h.bound
                  where e.captured_at < pg_catalog.clock_timestamp() - interval '500 milliseconds'
                    and not notika._dispatched(e.event_id, e.xid, e.workflow_id, h.position)
               )) as is_old
        from pg_catalog.pg_stat_activity as a
       where a.pid <> pg_catalog.pg_backend_pid() and a.datname = pg_catalog.current_database()
    ), held as (
      select s.pid, 'uncommitted writes' as holds, 'nothing' as blocks
        from session as s
       where s.backend_xid::text::bigint in (
               -- backend_xid has 32 bits
               select x.xid::text::bigint & 4294967295
                 from here as h
                cross join unnest(h.pending_xids) as x (xid)
             )
      union
      select k.pid, format('a lock on %s', k.relation::pg_catalog.regclass), 'ring'
        from lock as k
       where k.granted
         and k.relation = pg_catalog.to_regclass(format('notika.event_log_%s', notika._segment(1)))
         and k.pid not in (select h.pid from lock as h where h.hands_over)
      union
      select k.pid, format('a lock on %s', k.relation::pg_catalog.regclass), 'dispatch'
        from lock as k
        join session as s on s.pid = k.pid and s.is_old
       where k.is_ours and k.is_strong and k.granted
      union
      select k.pid, 'the right to dispatch', 'dispatch'
        from lock as k
        join session as s on s.pid = k.pid and s.is_old
       -- A session that waits is itself delayed by another one.
       where k.hands_over and k.pid not in (select w.pid from waiting as w)
      union
      select k.pid, r.holds, 'dispatch'
        from (
          select l.xmax, format('the line of workflow "%s"', w.name) as holds
            from notika.line_lock as l
            join notika.workflow as w on w.workflow_id = l.workflow_id
          union
          select l.xmax, 'the lock on signals'
            from notika.signal_lock as l
        ) as r
        join lock as k on k.transactionid = r.xmax and k.granted
        join session as s on s.pid = k.pid and s.is_old
       where k.pid not in (select w.pid from waiting as w)
         and k.pid not in (select h.pid from lock as h where h.hands_over)
    )
    select s.holder, h.holds, h.blocks, s.since,
           format('select pg_terminate_backend(%s);', s.pid) as remedy
      from held as h
      join session as s on s.pid = h.pid
    union all
    select s.holder, format('what pid %s waits for', min(b.waits)), 'dispatch', s.since,
           format('select pg_terminate_backend(%s);', s.pid)
      from blocking as b
      join session as s on s.pid = b.pid
     where b.pid not in (select h.pid from held as h where h.blocks = 'dispatch')
       and b.pid not in (select w.pid from waiting as w where not w.is_strong)
     group by s.pid, s.holder, s.since
    union all
    select format('prepared transaction %L of %s', x.gid, x.owner), null, 'ring', x.prepared,
           format('rollback prepared %L;', x.gid)
      from pg_catalog.pg_prepared_xacts as x
     where x.database = pg_catalog.current_database()
  ) as b;

comment on view notika._blocker is
  'What has stopped dispatch or the ring for half a second or more, or may have done so; never '
  'the session that reads this.';

comment on column notika._blocker.holder is
  'A session, by process id, role and application, or a prepared transaction.';

comment on column notika._blocker.holds is 'What it holds; null if that is not known.';

comment on column notika._blocker.blocks is
  'What it stops: dispatch, ring, or nothing (its own events are not dispatched yet).';

comment on column notika._blocker.since is
  'When its transaction began; null if the current role may not see that.';

comment on column notika._blocker.remedy is 'The statement that ends it.';

create or replace view notika.lag as
select waiting.events as events_waiting,
       waiting.oldest as oldest_waiting,
       pg_catalog.pg_table_size('notika.event_log_0')
         + pg_catalog.pg_table_size('notika.event_log_1')
         + pg_catalog.pg_table_size('notika.event_log_2') as ring_bytes,
       -- A subquery, so that it is evaluated only if the column is read.
       (select array_agg(distinct b.text order by b.text)
          from (
            select b.holder || coalesce(': ' || b.holds, '') || coalesce(' since ' || b.since, '')
              from notika._blocker as b
          ) as b (text)) as blocked_by,
       (select max(r.seen_at) from notika.runner as r) as dispatcher_seen_at
  from (
    select q as p from notika.position as q order by q.position_id desc limit 1
  ) as newest
 cross join lateral (
   select count(*) as events, min(e.captured_at) as oldest
     from notika._event as e
    where e.event_id > notika._bound(p)
      and not notika._dispatched(e.event_id, e.xid, e.workflow_id, p)
 ) as waiting;

comment on view notika.lag is 'How far dispatch is behind, and what delays it or the ring.';

comment on column notika.lag.events_waiting is
  'The number of committed events that have not been dispatched.';

comment on column notika.lag.oldest_waiting is 'When the oldest of them was captured.';

comment on column notika.lag.ring_bytes is 'The size of the three segments, in bytes.';

comment on column notika.lag.blocked_by is
  'Sessions that have held a lock that dispatch needs for half a second or more; sessions that '
  'hold a lock on the oldest segment, which keeps the ring from turning; sessions with '
  'uncommitted writes, which may contain events; and prepared transactions, which may do any of '
  'these. Null if there are none.';

comment on column notika.lag.dispatcher_seen_at is 'When a runner last sent a heartbeat.';
