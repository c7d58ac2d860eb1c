-- Who changes an item enters the change into the ledger in the same transaction: what stands there was committed.
create table public.item (
  id bigint primary key,
  version integer not null default 1,
  note text not null default ''
);
create table public.ledger (
  change text primary key,
  at timestamptz not null default clock_timestamp()
);
create index on public.ledger (at);
-- What runs have written in a step, which each ought to do once.
create table public.noted (
  change text not null
);
select notika.publish('record_change', 'public.item', operations => '{insert,update,delete}', columns => '{id,version}');
