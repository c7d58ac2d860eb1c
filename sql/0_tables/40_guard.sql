-- Tables of the guard: the objects a workflow depends on, and what the guard found and did.

create table notika.contract (
  workflow_id integer not null,
  column_name text not null,
  attnum smallint not null,
  type_name text not null,
  type oid not null,
  typmod integer not null,
  labels text[],
  label_ids oid[],
  attributes text[],
  constraint contract_pkey primary key (workflow_id, column_name),
  constraint contract_workflow_id_fkey foreign key (workflow_id) references notika.workflow
);
create index contract_type_idx on notika.contract (type);

comment on table notika.contract is
  'The columns that each workflow depends on through its payload, watch or condition.';
comment on column notika.contract.workflow_id is 'The workflow that depends on the column.';
comment on column notika.contract.column_name is 'The current name of the column.';
comment on column notika.contract.attnum is
  'The column''s attnum in the published table; 0: the table has no such column now.';
comment on column notika.contract.type_name is
  'The column''s type at publication, as format_type() prints it.';
comment on column notika.contract.type is 'The oid of the column''s type.';
comment on column notika.contract.typmod is 'The type modifier of the column.';
comment on column notika.contract.labels is
  'The labels of the enums in the type; null: there are none.';
comment on column notika.contract.label_ids is
  'The oids of these labels, which a rename keeps; null: another type has replaced the type since.';
comment on column notika.contract.attributes is
  'The attributes of the composite types in the type; null: there are none.';

create table notika.contract_key (
  workflow_id integer not null,
  place integer not null,
  column_name text not null,
  attnum smallint not null,
  type oid not null,
  constraint contract_key_pkey primary key (workflow_id, place),
  constraint contract_key_workflow_id_fkey foreign key (workflow_id) references notika.workflow
);

comment on table notika.contract_key is
  'The key of each workflow''s table, which is what remains of a row that is too large. When the '
  'key changes, the capture functions are created again.';
comment on column notika.contract_key.workflow_id is 'The workflow that is published on the table.';
comment on column notika.contract_key.place is 'The place of the column in the key, from 1.';
comment on column notika.contract_key.column_name is 'The name of the column.';
comment on column notika.contract_key.attnum is 'The column''s attnum in the published table.';
comment on column notika.contract_key.type is 'The oid of the column''s type.';

create table notika.contract_table (
  workflow_id integer not null,
  relation oid not null,
  constraint contract_table_pkey primary key (workflow_id, relation),
  constraint contract_table_workflow_id_fkey
    foreign key (workflow_id) references notika.workflow
);
create index contract_table_relation_idx on notika.contract_table (relation);

comment on table notika.contract_table is
  'The tables whose rows each workflow captures: the published table, its partitions and its '
  'inheritance children.';
comment on column notika.contract_table.workflow_id is 'The workflow that captures the rows.';
comment on column notika.contract_table.relation is
  'The oid of the table. With a regclass the restore of a dump would fail where a table is '
  'missing.';

create table notika.guard_log (
  guard_log_id bigint generated always as identity,
  at timestamptz not null default clock_timestamp(),
  xid xid8 not null default pg_current_xact_id(),
  workflow text,
  verdict text not null,
  kind text,
  object text,
  expected text,
  actual text,
  statement text,
  reason text,
  done_by name not null default session_user,
  constraint guard_log_pkey primary key (guard_log_id),
  constraint guard_log_verdict_check check (verdict in (
    'followed', 'healed', 'warned', 'allowed', 'ignored', 'broken', 'repaired', 'released', 'recorded',
    'maintenance begun', 'maintenance ended'
  ))
);
create index guard_log_xid_idx on notika.guard_log (xid);
create index guard_log_workflow_idx on notika.guard_log (workflow, at);
create index guard_log_not_judged_idx on notika.guard_log (workflow, at)
  where kind = 'not_judged';

comment on table notika.guard_log is
  'What the guard found and did, and who permitted breaking changes. A refused command leaves no '
  'row, because it is rolled back.';
comment on column notika.guard_log.guard_log_id is
  'The number of the entry, in the order of writing.';
comment on column notika.guard_log.at is 'When the entry was written.';
comment on column notika.guard_log.xid is 'The transaction that wrote the entry.';
comment on column notika.guard_log.workflow is
  'The name of the workflow; null: the entry is about all of them.';
comment on column notika.guard_log.verdict is
  'followed (a rename), healed, warned, allowed, ignored (guard => off), broken, repaired, '
  'released, recorded (a TRUNCATE), maintenance begun or maintenance ended.';
comment on column notika.guard_log.kind is
  'The kind of finding, for example column_dropped; null: the entry is not about one.';
comment on column notika.guard_log.object is
  'The table, column or trigger that the finding is about.';
comment on column notika.guard_log.expected is 'The state according to the contract.';
comment on column notika.guard_log.actual is 'The state in the catalog.';
comment on column notika.guard_log.statement is
  'The command that led to the finding, with the contents of strings removed and without other '
  'commands that were sent with it.';
comment on column notika.guard_log.reason is 'The reason that the caller gave.';
comment on column notika.guard_log.done_by is 'The login role, or the caller of the verb.';

create table notika.maintenance (
  maintenance_id bigint generated always as identity,
  reason text not null,
  begun_at timestamptz not null default clock_timestamp(),
  begun_by name not null default session_user,
  ends_at timestamptz not null,
  ended_at timestamptz,
  constraint maintenance_pkey primary key (maintenance_id)
);

comment on table notika.maintenance is
  'Maintenance windows, in which the guard records findings but refuses nothing; for tools that do '
  'not use one transaction.';
comment on column notika.maintenance.maintenance_id is 'The number of the window.';
comment on column notika.maintenance.reason is 'The reason that the caller gave.';
comment on column notika.maintenance.begun_at is 'When the window was opened.';
comment on column notika.maintenance.begun_by is 'The role that opened the window.';
comment on column notika.maintenance.ends_at is 'When the window ends by itself.';
comment on column notika.maintenance.ended_at is
  'When end_maintenance closed the window; null: it did not.';

create table notika.guard_pending (
  pending_id bigint generated always as identity,
  workflow_id integer not null,
  tag text not null,
  statement text not null,
  dropped text,
  found text[],
  constraint guard_pending_pkey primary key (pending_id)
);
create index guard_pending_workflow_idx on notika.guard_pending (workflow_id);

comment on table notika.guard_pending is
  'Workflows to judge when the transaction commits, with the commands that changed what the guard '
  'would find. Empty between transactions.';
comment on column notika.guard_pending.pending_id is
  'The number of the entry, in the order of the commands.';
comment on column notika.guard_pending.workflow_id is 'The workflow to judge.';
comment on column notika.guard_pending.tag is 'The command tag.';
comment on column notika.guard_pending.statement is
  'The command, with the contents of strings removed.';
comment on column notika.guard_pending.dropped is
  'A trigger or function of the workflow that was dropped by name; null: none was.';
comment on column notika.guard_pending.found is
  'What the guard would have refused or followed after this command: each kind and object. Null '
  'while the command is still running.';

create table notika.guard_state (
  only_row boolean not null default true,
  publications bigint not null default 0,
  workflow_table oid not null,
  constraint guard_state_pkey primary key (only_row),
  constraint guard_state_only_row_check check (only_row)
);

insert into notika.guard_state (workflow_table)
values ('notika.workflow'::regclass::oid);

comment on table notika.guard_state is
  'One row that lets the guard detect a stale snapshot and a restored copy.';
comment on column notika.guard_state.only_row is 'Always true, so that the table has one row.';
comment on column notika.guard_state.publications is
  'Incremented by publish. A migration with an older snapshot fails instead of judging by what it '
  'sees.';
comment on column notika.guard_state.workflow_table is
  'The oid of notika.workflow, stored as a number. In a restored copy the table has another oid.';

create table notika.guard_busy (
  pid integer not null
);

comment on table notika.guard_busy is
  'Has a row while Notika itself runs DDL. It is deleted in the same transaction, so no other '
  'session ever sees it.';
comment on column notika.guard_busy.pid is 'The process id of the session.';

-- Without a primary key, a publication FOR ALL TABLES refuses deletes otherwise.
alter table notika.guard_busy replica identity full;
