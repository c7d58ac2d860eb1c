-- A trigger function that does nothing: what any row trigger costs.
-- Left out: everything. Nothing is kept.
create schema empty;

create function empty.capture() returns trigger language plpgsql as $$
begin
  return null;
end;
$$;
