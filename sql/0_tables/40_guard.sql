-- Tables of the guard: what a workflow depends on, and what the guard found and did.

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
  'The columns that each workflow depends on, by its payload, its watch or its condition.';
comment on column notika.contract.workflow_id is 'The workflow.';
comment on column notika.contract.column_name is 'The column, as it is called now.';
comment on column notika.contract.attnum is 'Its number in the published table.';
comment on column notika.contract.type_name is 'Its type when it was published, written out.';
comment on column notika.contract.type is 'The same without its modifier, for the catalog.';
comment on column notika.contract.typmod is 'The type''s modifier.';
comment on column notika.contract.labels is 'The labels of the enums in it.';
comment on column notika.contract.label_ids is
  'Their numbers, which stay when they are renamed; null: another type has taken its place since.';
comment on column notika.contract.attributes is 'The attributes of the composite types in it.';

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
  'The key of each workflow''s table, which is left of a row that is too big. It may change, and what '
  'captures is then made again.';
comment on column notika.contract_key.workflow_id is 'The workflow.';
comment on column notika.contract_key.place is 'The column''s place in the key.';
comment on column notika.contract_key.column_name is 'The column.';
comment on column notika.contract_key.attnum is 'Its number in the published table.';
comment on column notika.contract_key.type is 'Its type.';

create table notika.contract_table (
  workflow_id integer not null,
  relation oid not null,
  constraint contract_table_pkey primary key (workflow_id, relation),
  constraint contract_table_workflow_id_fkey
    foreign key (workflow_id) references notika.workflow
);
create index contract_table_relation_idx on notika.contract_table (relation);

comment on table notika.contract_table is
  'The tables whose rows each workflow captures: the published one, its partitions and children.';
comment on column notika.contract_table.workflow_id is 'The workflow.';
comment on column notika.contract_table.relation is
  'A table, as a number: a name that is not there would fail the load of a dump.';

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
  'What the guard saw and did, and who let what through. A refusal leaves no trace: it rolls back.';
comment on column notika.guard_log.guard_log_id is 'Its order.';
comment on column notika.guard_log.at is 'When.';
comment on column notika.guard_log.xid is 'In which transaction.';
comment on column notika.guard_log.workflow is 'The workflow; null: all of them.';
comment on column notika.guard_log.verdict is
  'followed (a rename), healed, warned, allowed, ignored (guard off), broken, repaired, released, '
  'recorded (a TRUNCATE), maintenance begun or ended.';
comment on column notika.guard_log.kind is 'What was found, for instance column_dropped.';
comment on column notika.guard_log.object is 'The table, column or trigger.';
comment on column notika.guard_log.expected is 'What the contract says.';
comment on column notika.guard_log.actual is 'What the catalog says.';
comment on column notika.guard_log.statement is
  'The command that led to it, with empty strings and without what was sent along with it.';
comment on column notika.guard_log.reason is 'What the caller gave as the reason.';
comment on column notika.guard_log.done_by is 'The login.';

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
  'Windows in which the guard only takes notes, for tools that do not use one transaction.';
comment on column notika.maintenance.maintenance_id is 'Its id.';
comment on column notika.maintenance.reason is 'What it is for.';
comment on column notika.maintenance.begun_at is 'Since when.';
comment on column notika.maintenance.begun_by is 'Whose it is.';
comment on column notika.maintenance.ends_at is 'When it ends by itself.';
comment on column notika.maintenance.ended_at is 'When end_maintenance ended it.';

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
  'Workflows that are to be judged when the transaction commits, with the commands that changed what '
  'would be found; empty between transactions.';
comment on column notika.guard_pending.pending_id is 'Its order.';
comment on column notika.guard_pending.workflow_id is 'The workflow.';
comment on column notika.guard_pending.tag is 'The command.';
comment on column notika.guard_pending.statement is 'The command, with empty strings.';
comment on column notika.guard_pending.dropped is
  'A trigger or function of the workflow that was dropped by name.';
comment on column notika.guard_pending.found is
  'What would have been refused after this command: each kind and object; null: it still runs.';

create table notika.guard_state (
  only_row boolean not null default true,
  publications bigint not null default 0,
  workflow_table oid not null,
  constraint guard_state_pkey primary key (only_row),
  constraint guard_state_only_row_check check (only_row)
);

insert into notika.guard_state (workflow_table)
values ('notika.workflow'::regclass::oid);

comment on table notika.guard_state is 'One row by which the guard tells what it cannot see.';
comment on column notika.guard_state.only_row is 'Always true: there is one row.';
comment on column notika.guard_state.publications is
  'Counted up by publish: a migration with an older snapshot must not judge by what it sees.';
comment on column notika.guard_state.workflow_table is
  'The oid of notika.workflow, as a number: another one means that this is a restored copy.';

create table notika.guard_busy (
  pid integer not null
);

comment on table notika.guard_busy is
  'Has a row, which nobody else ever sees, while Notika itself does DDL.';
comment on column notika.guard_busy.pid is 'The session.';

-- It has no primary key, and a publication FOR ALL TABLES would refuse to delete from it.
alter table notika.guard_busy replica identity full;
