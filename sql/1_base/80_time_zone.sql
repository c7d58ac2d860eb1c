-- Time zones.  Only names of pg_timezone_names are accepted.  Postgres also accepts POSIX strings,
-- in which the sign is reversed ("UTC+2" is two hours behind UTC, "Foo3" three), and abbreviations,
-- whose meaning depends on a setting ("IST") and which have no daylight-saving time ("CET").

create or replace function notika._is_time_zone(name text)
  returns boolean
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  -- The view reads hundreds of files.  A name with a slash and no digit is neither an abbreviation
  -- nor a POSIX string: if Postgres accepts it, it is a file.  The files in right/ count leap
  -- seconds.
  if _is_time_zone.name ~ '^[A-Za-z_]+(/[A-Za-z_-]+)+$' and _is_time_zone.name !~* '^right/' then
    begin
      perform now() at time zone _is_time_zone.name;
      return true;
    exception when invalid_parameter_value then
      return false;
    end;
  end if;
  return _is_time_zone.name = 'UTC'
      or exists (
           select from pg_timezone_names as n where lower(n.name) = lower(_is_time_zone.name)
         )
         -- Postgres reads these as abbreviations.
         and upper(_is_time_zone.name) not in ('CET', 'EET', 'MET', 'WET');
end;
$$;

comment on function notika._is_time_zone(text) is
  'Whether this is a name of pg_timezone_names that Postgres reads as that zone.';

create or replace function notika._pairs(word text)
  returns text[]
  language sql
  immutable
  set search_path = pg_catalog, pg_temp
as $$
  select array(
    select distinct substr(word, i, 2) from generate_series(1, length(word) - 1) as i
  );
$$;

comment on function notika._pairs(text) is
  'The pairs of adjacent letters in a word, by which similar words are found.';

create or replace function notika._similar_time_zone(name text)
  returns text
  language sql
  stable
  set search_path = pg_catalog, pg_temp
as $$
  select s.name
    from (
      select n.name, c.shared::numeric / (g.count + cardinality(w.pairs) - c.shared) as likeness
        from pg_timezone_names as n
       cross join lateral (
         values (notika._pairs(lower(n.name))),
                (notika._pairs(lower(substring(n.name from '[^/]*$'))))
       ) as w (pairs)
       cross join lateral (
         select a.pairs, cardinality(a.pairs) as count
           from (select notika._pairs(replace(lower(left(_similar_time_zone.name, 50)), ' ', '_')))
                as a (pairs)
       ) as g
       cross join lateral (
         select count(*) as shared from unnest(w.pairs) as p (pair) where p.pair = any (g.pairs)
       ) as c
       where n.name ~ '^[A-Z][A-Za-z]+/' and n.name !~ '^(Etc|SystemV)/' and g.count > 1
    ) as s
   where s.likeness >= 0.5
   order by s.likeness desc, s.name
   limit 1;
$$;

comment on function notika._similar_time_zone(text) is
  'The time zone whose name, or the last part of it, is most similar to this text; null: none is '
  'similar enough.';

create or replace function notika._time_zone_hint(name text)
  returns text
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_all constant text := 'List the time zones: select name from pg_timezone_names;';
  v_offset text[] := regexp_match(_time_zone_hint.name,
                                  '^(?:utc|gmt)?\s*([+-])(\d\d?)(?::?([0-5]\d))?$', 'i');
  v_interval interval;
  v_places text;
  v_similar text;
begin
  if v_offset is not null then
    if coalesce(v_offset[3], '00') = '00' then
      if v_offset[2]::integer between 1 and 12 then
        return format('Did you mean Etc/GMT%s%s? In that name the sign is reversed: it is %s hours %s '
                      'UTC all year. A place, such as Europe/Berlin, has daylight-saving time.',
                      translate(v_offset[1], '+-', '-+'), v_offset[2]::integer, v_offset[2]::integer,
                      case v_offset[1] when '+' then 'ahead of' else 'behind' end);
      end if;
    end if;
    v_interval := (v_offset[1] || '1')::integer
      * make_interval(hours => v_offset[2]::integer, mins => coalesce(v_offset[3], '0')::integer);
    select string_agg(p.name, ', ') into v_places
      from (
        select n.name
          from pg_timezone_names as n
         where n.utc_offset = v_interval and n.name ~ '^[A-Z][A-Za-z]+/' and n.name !~ '^Etc/'
         order by n.name
         limit 5
      ) as p;
    return coalesce('These have that offset now: ' || v_places || '.', v_all);
  end if;

  select z.places into v_places
    from (
      values ('IST', 'Asia/Kolkata, Asia/Jerusalem or Europe/Dublin'),
             ('CET CEST MEZ MESZ MET MEST', 'Europe/Berlin'), ('EET EEST', 'Europe/Athens'),
             ('WET WEST', 'Europe/Lisbon'), ('BST', 'Europe/London'), ('MSK', 'Europe/Moscow'),
             ('ET EST EDT', 'America/New_York'), ('CT CST CDT', 'America/Chicago'),
             ('MT MST MDT', 'America/Denver'), ('PT PST PDT', 'America/Los_Angeles'),
             ('JST', 'Asia/Tokyo'), ('KST', 'Asia/Seoul'), ('SGT', 'Asia/Singapore'),
             ('HKT', 'Asia/Hong_Kong'), ('AEST AEDT', 'Australia/Sydney'),
             ('NZST NZDT', 'Pacific/Auckland'), ('Z ZULU', 'UTC')
    ) as z (abbreviations, places)
   where upper(_time_zone_hint.name) = any (string_to_array(z.abbreviations, ' '));
  if found then
    return format('Did you mean %s?', v_places);
  end if;

  v_similar := notika._similar_time_zone(_time_zone_hint.name);
  return coalesce('Did you mean ' || v_similar || '?', v_all);
end;
$$;

comment on function notika._time_zone_hint(text) is
  'A hint for text that is not a time zone: the zone that the caller may mean.';

create or replace function notika._check_time_zone(time_zone text)
  returns void
  language plpgsql
  stable
  set search_path = pg_catalog, pg_temp
as $$
begin
  if _check_time_zone.time_zone is null
     or not notika._is_time_zone(_check_time_zone.time_zone)
  then
    raise exception 'there is no time zone "%"', coalesce(_check_time_zone.time_zone, 'null')
      using errcode = 'invalid_parameter_value',
            detail = 'A time zone is named as in pg_timezone_names, not by an offset or an '
                     'abbreviation.',
            hint = notika._time_zone_hint(_check_time_zone.time_zone);
  end if;
end;
$$;

comment on function notika._check_time_zone(text) is
  'Raises an error, with a hint, if the text is not the name of a time zone.';
