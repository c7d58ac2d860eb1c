-- A trigger that calls graphile-worker's own add_job with the row.
-- Left out: nothing; it is the real function, of the version that Notika brings along.
create schema add_job;

create function add_job.capture() returns trigger language plpgsql as $$
begin
  perform notika_worker.add_job('order_changed', json_build_object(
    'op', tg_op,
    'old', case when tg_op <> 'INSERT' then row_to_json(old) end,
    'new', case when tg_op <> 'DELETE' then row_to_json(new) end
  ));
  return null;
end;
$$;
