-- Notika: the schema, its version and its settings.
-- Names: a plain verb is public; a leading underscore is private; tables are singular, views plural.
-- Every function pins its search_path to pg_catalog, pg_temp and writes every other name in full;
-- those of triggers, which publish makes, pin none and write every name in full.

do $$
begin
  -- `create schema if not exists` asks for CREATE on the database even where the schema exists.
  if to_regnamespace('notika') is null then
    create schema notika;
  end if;
end;
$$;

comment on schema notika is
  'Notika: runs workflows from row changes. Start with notika.publish(workflow, table).';

create or replace function notika.version()
  returns text
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select '0.1.0';
$$;

comment on function notika.version() is
  'The version of the SQL that is installed; the runner of the same version expects it.';

create or replace function notika._migrations()
  returns text[]
  language plpgsql
  stable
  security definer
  set search_path = pg_catalog, pg_temp
as $$
begin
  return array(select m.name from notika.migration as m order by m.name);
end;
$$;

comment on function notika._migrations() is
  'The migrations that this database has, by which a runner knows whether it needs an upgrade.';

create table if not exists notika.setting (
  only_row boolean not null default true,
  segment_age interval not null default '8 hours',
  segment_bytes bigint not null default 1073741824,
  payload_bytes integer not null default 1048576,
  max_depth smallint not null default 16,
  max_attempts smallint not null default 12,
  missed_after interval not null default '10 minutes',
  runs_kept interval not null default '30 days',
  installation uuid,
  database_id oid,
  blocked_for interval not null default '15 minutes',
  constraint setting_pkey primary key (only_row),
  constraint setting_only_row_check check (only_row),
  constraint setting_segment_age_check check (segment_age > interval '0'),
  constraint setting_segment_bytes_check check (segment_bytes > 0),
  constraint setting_payload_bytes_check check (payload_bytes between 1024 and 1048576),
  constraint setting_max_depth_check check (max_depth > 0),
  constraint setting_max_attempts_check check (max_attempts > 0),
  constraint setting_missed_after_check check (missed_after >= interval '0'),
  constraint setting_runs_kept_check check (runs_kept >= interval '0'),
  constraint setting_blocked_for_check check (blocked_for >= interval '0')
);

comment on table notika.setting is
  'This installation: its limits, which are changed by update, and its name. One row.';
comment on column notika.setting.only_row is 'Always true: there is one row.';
comment on column notika.setting.segment_age is
  'The ring turns when the oldest event of its current segment is older than this.';
comment on column notika.setting.segment_bytes is
  'The ring turns when its current segment is larger than this, in bytes.';
comment on column notika.setting.payload_bytes is
  'An old or new row above this many bytes is cut down to its key; in force at the next publish.';
comment on column notika.setting.max_depth is
  'How many runs may wake each other in a chain before the next one fails.';
comment on column notika.setting.max_attempts is
  'How often a run is tried unless its task says otherwise.';
comment on column notika.setting.missed_after is
  'A schedule that skips what it missed keeps a time that is no later than this.';
comment on column notika.setting.runs_kept is
  'How long runs that have ended are remembered.';
comment on column notika.setting.installation is
  'Stands in the idempotency keys of steps, so that a copy of a database has keys of its own. Null '
  'until a runner needs it.';
comment on column notika.setting.database_id is
  'The oid of the database that has the name above: another one is a copy, and gets another name.';
comment on column notika.setting.blocked_for is
  'How long a runner counts as alive while a task blocks its event loop; then others take its runs.';

insert into notika.setting default values
  on conflict do nothing;

create or replace function notika._session_role()
  returns name
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select case current_setting('role')
           when 'none' then session_user
           else current_setting('role')::name
         end;
$$;

comment on function notika._session_role() is
  'The role that the session acts as outside of SECURITY DEFINER functions: the last SET ROLE, or '
  'else the login. A guess, not a proof: nothing is allowed by it.';

create or replace function notika._dollar_quoted(body text, tag text)
  returns text
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- Names and strings of others in a body may look like its end.
  while strpos(body, '$' || tag) > 0 loop
    tag := tag || '_';
  end loop;
  return format('$%s$%s$%s$', tag, body, tag);
end;
$$;

comment on function notika._dollar_quoted(text, text) is
  'The body of a function as a literal, between this tag or one that the body does not have.';
