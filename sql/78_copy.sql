-- Copies: what pg_restore, a promoted standby or a subscriber has of Notika's own tables, how far it
-- can be trusted, and how it is put right.  A copy in another cluster has a foreign cursor, which the
-- first dispatch rebases; here is what it takes besides.

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
       and s.relnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
     order by 1
  loop
    -- Asked before the sequence, which only grows.
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
  'Sequences that would give numbers that are taken already, as in a copy that was made by '
  'replication, or of tables without their sequences.';

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
  'Brings sequences beyond the numbers that are taken, and says how many that were.';

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

  -- Several jobs of pg_restore may fill a partition when the triggers of its table are there.  They
  -- make event triggers, and before these grant rights, when everything is filled.
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
  'Deletes what was captured in a copy while it was being loaded: those rows did not change.';

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
      'this is a copy without its data: what is captured is never handed over', 'npx notika install';
    return;
  end if;
  if notika._cluster() = 0 then
    return query select 'cluster', 'warning', null::text,
      'this server does not say which cluster it is (pg_control_system() is not to be executed): a copy '
      'in another cluster is told by its transaction ids alone, and may be taken for the original',
      format('grant execute on function pg_catalog.pg_control_system() to %I;', current_user);
  end if;
  if notika._is_foreign(v_here) then
    return query
      select 'copy', 'warning', null::text,
             format('this is a copy from another cluster: %s events and %s runs that waited there will '
                    'run here too', (select l.events_waiting from notika.lag as l),
                    (select count(*) from notika_worker._private_jobs)),
             'If they are to: npx notika run. If not, first: select notika.pause(w.workflow) '
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
                             where n.nspname !~ '^(pg_.*|information_schema|notika|notika_worker)$'),
                           '<schema>'))
      from (select distinct p.pubname::text as pubname from pg_publication_tables as p
             where p.schemaname in ('notika', 'notika_worker')) as t
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
        where c.relnamespace in ('notika'::regnamespace, 'notika_worker'::regnamespace)
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
  'What notika.health says of copies: restored ones, and those that replication makes.';
