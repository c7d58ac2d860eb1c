-- Copies: what pg_restore, a promoted standby or a subscriber has of Notika's own tables, how far
-- that can be trusted, and how it is corrected. A copy in another cluster has a foreign cursor,
-- which the first dispatch rebases; everything else that a copy needs is here.

create or replace function notika._allow_updates(segment regclass)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- A publication FOR ALL TABLES refuses updates of a table without a key. The lock is not waited
  -- for, because writers would wait behind it.
  if exists (
    select from pg_publication_tables as t
      join pg_class as c on c.oid = _allow_updates.segment and c.relreplident <> 'f'
     where t.schemaname = 'notika' and t.tablename = c.relname
  ) then
    execute format('lock table %s in access exclusive mode nowait', segment);
    execute format('alter table %s replica identity full', segment);
  end if;
end;
$$;

comment on function notika._allow_updates(regclass) is
  'Makes updates of a segment possible, which happen only in a copy.';

create or replace function notika._begin_copy()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._rebind_copy();
  update notika.setting as s
     set installation = gen_random_uuid(),
         database_id = (select d.oid from pg_database as d where d.datname = current_database());
end;
$$;

comment on function notika._begin_copy() is
  'Makes a copy, or a new database, an installation of its own: with the objects of this database '
  'and a unique name.';

create or replace function notika._is_this_database()
  returns boolean
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select s.database_id is not distinct from d.oid
    from notika.setting as s
    join pg_database as d on d.datname = current_database();
$$;

comment on function notika._is_this_database() is
  'Whether the installation belongs to this database; false in a copy within the cluster.';

create or replace function notika._installation()
  returns uuid
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set lock_timeout = '10s' -- a dispatch is shorter
as $$
begin
  if not notika._is_this_database() or notika._is_foreign(notika._position()) then
    perform notika._lock_dispatch(waits => true);
    if notika._is_foreign(notika._position()) then
      perform notika._rebase(notika._position());
    elsif not notika._is_this_database() then
      perform notika._begin_copy();
    end if;
  end if;
  return (select s.installation from notika.setting as s);
end;
$$;

comment on function notika._installation() is
  'The name of this installation, which is part of idempotency keys. A copy is given its own name '
  'first. A runner calls this before it runs anything.';

create or replace function notika._rebase(here notika.position)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_next notika.position;
  v_waiting bigint;
  v_low bigint;
begin
  perform notika._allow_updates(s::regclass)
     from unnest('{notika.event_log_0,notika.event_log_1,notika.event_log_2}'::text[]) as s;
  perform notika._forget_load();
  perform notika._advance_sequences();
  -- The xids of the copied events have no meaning here. A dispatched event gets an xid that the
  -- new snapshot sees; an event that was not dispatched gets that of this transaction, and so do
  -- events that were committed here since, which are not dispatched either.
  for v_segment in 0..2 loop
    execute format(
      'update notika.event_log_%s as e
          set xid = case when notika._dispatched(e.event_id, e.xid, e.workflow_id, $1) then ''3''::xid8
                         else pg_current_xact_id() end',
      v_segment)
      using _rebase.here;
  end loop;
  select count(*), min(e.event_id) - 1 into v_waiting, v_low
    from notika._event as e
   where e.xid = pg_current_xact_id();
  update notika.listener as l set xid = null, snapshot = null;
  update notika.signal as s set xid = '3';

  v_next.system_identifier := notika._cluster();
  v_next.snapshot := '4:4:'; -- no transaction of this cluster
  v_next.high := greatest(here.high, here.window_high);
  -- Below the bound are events that were captured here before the sequence was advanced.
  v_next.low := least(notika._bound(here), v_low);
  v_next.pending_xids := '{}';
  v_next.pending_lows := '{}';
  v_next.horizon := v_next.low;
  -- The jobs were copied with their places.
  v_next.flow_ids := here.flow_ids;
  v_next.flow_priorities := here.flow_priorities;
  v_next.flow_places := here.flow_places;
  perform notika._move(v_next);
  perform notika._begin_copy();
  -- The changes since their start can no longer be determined.
  perform notika._end_backfill(b.backfill_id, 'cancelled')
     from notika.backfill as b
    where b.finished_at is null;

  raise warning 'notika: this database was restored from another cluster; the cursor was rebased'
    using detail = format('%s events were not dispatched yet and will be now.', v_waiting),
          hint = 'If the original keeps running too, its runs happen twice: see notika.runs.';
end;
$$;

comment on function notika._rebase(notika.position) is
  'Starts a new cursor in a restored copy, at the events that had not been dispatched when it was '
  'copied.';

create or replace function notika._rebind_copy()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  update notika.guard_state as s
     set workflow_table = 'notika.workflow'::regclass::oid
   where s.workflow_table <> 'notika.workflow'::regclass::oid;
  if not found then
    return;
  end if;
  perform notika._rebind_grantees();
  update notika.workflow as w
     set publisher_id = (select r.oid from pg_roles as r where r.rolname = w.published_by),
         condition_uses = notika._uses_by_name(w.condition_uses);

  -- Workflows found their tables by name. If a rename had not been noticed, the trigger identifies
  -- the table.
  update notika.workflow as w
     set table_name = notika._quoted(t.relation)
    from notika.workflow as o
   cross join lateral notika._triggers(o.workflow_id) as t
   where w.relation is null and w.unpublished_at is null and w.on_rename = 'follow'
     and o.workflow_id = w.workflow_id
     and not exists (select from pg_inherits as i where i.inhrelid = t.relation);
  delete from notika.contract_table;
  insert into notika.contract_table (workflow_id, relation)
  select w.workflow_id, t
    from notika.workflow as w
   cross join notika._tables(w.relation) as t
   where w.relation is not null;
  -- 0: there is none.
  update notika.contract as c
     set attnum = coalesce(a.attnum, 0),
         label_ids = case when c.labels = notika._labels(a.atttypid) then notika._label_ids(a.atttypid) end,
         type = case when format_type(a.atttypid, a.atttypmod) = c.type_name then a.atttypid
                     when c.type < 16384 then c.type
                     else 0 end
    from notika.contract as o
    join notika.workflow as w on w.workflow_id = o.workflow_id
    left join pg_attribute as a
      on a.attrelid = w.relation and a.attname = o.column_name and not a.attisdropped
   where c.workflow_id = o.workflow_id and c.column_name = o.column_name;
  perform notika._bind_key(w.workflow_id)
     from notika.workflow as w
    where w.unpublished_at is null;
  raise warning 'notika: this is a restored copy; workflows were bound to its tables by name'
    using hint = 'What could not be bound: select * from notika.health;';
end;
$$;

comment on function notika._rebind_copy() is 'Binds contracts to the tables of a restored copy.';

create or replace function notika._late_sequences()
  returns table (sequence regclass, reached bigint, needed bigint)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_column record;
  v_here notika.position := notika._position();
begin
  for v_column in
    select d.objid::regclass as sequence, d.refobjid::regclass as relation, a.attname as name
      from pg_depend as d
      join pg_class as s on s.oid = d.objid and s.relkind = 'S'
      join pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
     where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
       and d.deptype in ('a', 'i')
       and s.relnamespace = any (notika._own_schemas())
     order by 1
  loop
    -- Read before the sequence, which only grows.
    execute format('select max(t.%I) from %s as t', v_column.name, v_column.relation) into needed;
    sequence := v_column.sequence;
    reached := coalesce(pg_sequence_last_value(sequence), 0);
    if needed > reached then
      return next;
    end if;
  end loop;

  needed := greatest(
    (select max(e.event_id) from notika._event as e),
    (select max(l.run_id) from notika.run_log as l where l.retried_at is null),
    v_here.low, v_here.high, v_here.window_high
  );
  sequence := 'notika.event_id_seq';
  reached := coalesce(pg_sequence_last_value(sequence), 0);
  if needed > reached then
    return next;
  end if;
end;
$$;

comment on function notika._late_sequences() is
  'Sequences that would yield numbers that are in use, as in a copy that was made by replication, '
  'or of tables without their sequences.';

create or replace function notika._advance_sequences()
  returns integer
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  return (
    select count(setval(l.sequence, l.needed)) from notika._late_sequences() as l
  );
end;
$$;

comment on function notika._advance_sequences() is
  'Advances sequences beyond the numbers that are in use, and returns how many sequences that '
  'were.';

create or replace function notika._is_own_row(row_xmin xid, written_by xid8)
  returns boolean
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select row_xmin::text::bigint = written_by::text::bigint & 4294967295; -- xmin has 32 bits
$$;

comment on function notika._is_own_row(xid, xid8) is
  'Whether a row was written by the transaction that it names, and not by one that loaded a dump.';

create or replace function notika._forget_load()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_now bigint := pg_current_xact_id()::text::bigint;
  v_loaded_until xid8;
begin
  -- pg_upgrade and standbys keep the rows as they were written.
  if (
    select notika._is_own_row(p.xmin, p.xid)
      from notika.position as p
     order by p.position_id desc
     limit 1
  ) then
    return;
  end if;

  -- Several jobs of pg_restore may fill a partition when the triggers of its table exist already.
  -- They create event triggers, and before these grant rights, after all tables are filled.
  select greatest(v_now - min(age(o.xmin)), 3)::text::xid8 into v_loaded_until
    from (
      select e.xmin from pg_event_trigger as e where e.evtname ~ '^notika_guard_'
      union all
      select p.xmin from pg_proc as p
       where p.oid = 'notika.dispatch(integer)'::regprocedure
         and not exists (select from pg_event_trigger as e where e.evtname ~ '^notika_guard_')
    ) as o;
  for v_segment in 0..2 loop
    execute format(
      'delete from notika.event_log_%1$s as e
        using (
          select o.xmin as xid
            from notika.event_log_%1$s as o
           group by o.xmin
          having bool_and(notika._is_own_row(o.xmin, o.xid)) -- and not by chance
        ) as writer
        where e.xmin = writer.xid and e.xid < $1', v_segment)
      using v_loaded_until;
  end loop;
end;
$$;

comment on function notika._forget_load() is
  'Deletes the events that were captured while a copy was being loaded: those rows did not '
  'change.';

create or replace function notika._copy_health()
  returns table (finding text, severity text, workflow text, detail text, remedy text)
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set quote_all_identifiers = off
as $$
declare
  v_here notika.position := notika._position();
begin
  if not exists (select from notika.setting) or v_here.position_id is null then
    return query select 'copy', 'error', null::text,
      'this is a copy without its data: captured events are never dispatched', 'npx notika install';
    return;
  end if;
  if notika._cluster() = 0 then
    return query select 'cluster', 'warning', null::text,
      'this server does not say which cluster it is (pg_control_system() may not be executed): a copy '
      'in another cluster is recognised by its transaction ids alone, and may be taken for the original',
      format('grant execute on function pg_catalog.pg_control_system() to %I;', current_user);
  end if;
  if notika._is_foreign(v_here) then
    return query
      select 'copy', 'warning', null::text,
             format('this is a copy from another cluster: %s events and %s runs that waited there will '
                    'run here too', (select l.events_waiting from notika.lag as l),
                    (select count(*) from notika._job)),
             'If these runs should run here too: npx notika run. If not, first: select notika.pause(w.workflow) '
             'from notika.workflows as w where w.workflow not like ''%:%'';'::text;
  end if;
  return query
    select 'sequence_behind', 'error', null::text,
           format('%s stands at %s, and %s is taken already', l.sequence, l.reached, l.needed),
           'select * from notika.install();'
      from notika._late_sequences() as l;

  return query
    select 'publication', 'warning', null::text,
           format('publication %I publishes Notika''s own tables: a runner at a subscriber would run '
                  'what runs here', t.pubname),
           format('create publication %I for tables in schema %s; and name that in the subscription',
                  left(t.pubname || '_without_notika', 63),
                  coalesce((select string_agg(quote_ident(n.nspname), ', ' order by n.nspname)
                              from pg_namespace as n
                             where not notika._is_reserved(n.oid)),
                           '<schema>'))
      from (select distinct p.pubname::text as pubname
              from pg_publication_tables as p
              join pg_namespace as n on n.nspname = p.schemaname
             where n.oid = any (notika._own_schemas())) as t
     order by t.pubname;
  return query
    select 'subscription', 'warning', null::text,
           format('subscription %I writes to Notika''s own tables: no runner may work here before it '
                  'ends, and sequences are not replicated', s.subname),
           format('drop subscription %I; select * from notika.install();', s.subname)
      from pg_subscription as s
     where s.oid in (
       select r.srsubid from pg_subscription_rel as r
         join pg_class as c on c.oid = r.srrelid
        where c.relnamespace = any (notika._own_schemas())
     )
     order by s.subname;
  return query
    select 'subscription', 'ok', w.name,
           format('changes of %s that subscription %I brings wake no workflow here: they did where they '
                  'were made', notika._quoted(t.relation), s.subname),
           format('If they are to wake it here too: alter table %s enable always trigger %I;',
                  notika._quoted(t.relation), t.name)
      from pg_subscription_rel as r
      join pg_subscription as s on s.oid = r.srsubid
      join notika.contract_table as c on c.relation = r.srrelid
      join notika.workflow as w on w.workflow_id = c.workflow_id and w.unpublished_at is null
     cross join notika._triggers(w.workflow_id) as t
      join pg_trigger as g on g.tgrelid = t.relation and g.tgname = t.name and g.tgenabled = 'O'
     order by w.name, t.name;
end;
$$;

comment on function notika._copy_health() is
  'The findings of notika.health about copies: restored ones, and those that replication makes.';

create or replace function notika._rebind_grantees()
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
begin
  delete from notika.grantee as g
   where g.role_name not in (select r.rolname from pg_roles as r);
  update notika.grantee as g
     set role_id = r.oid
    from pg_roles as r
   where r.rolname = g.role_name;
end;
$$;

comment on function notika._rebind_grantees() is
  'Finds the roles of a restored copy by their names, and forgets those that do not exist.';
