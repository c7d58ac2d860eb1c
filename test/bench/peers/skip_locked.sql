-- The plain queue table: rows are taken out with delete … for update skip locked … returning.
-- Left out: nothing; what is taken is gone, so a consumer that dies loses it unless it holds its transaction open.
create schema skip_locked;

create table skip_locked.job (id bigint generated always as identity primary key, payload json not null);

create function skip_locked.take(most integer) returns setof skip_locked.job language sql as $$
  delete from skip_locked.job
   where id in (select j.id from skip_locked.job as j order by j.id limit most for update skip locked)
  returning *;
$$;

create function skip_locked.fill(events integer) returns void language sql as $$
  insert into skip_locked.job (payload) select bench.payload(n) from generate_series(1, events) as n;
$$;
