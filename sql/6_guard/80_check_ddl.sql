-- check_ddl: finds out what a migration would do to the workflows by running and undoing it.
-- The text runs with the rights and the search_path of the caller, in a subtransaction that always
-- ends with an error.  A statement with an effect that no rollback undoes must not run.

create or replace function notika._undoable(statement text)
  returns text
  language plpgsql
  immutable
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $body$
declare
  -- Looks for effects that no rollback undoes anywhere in the text: also in a DO block, a function
  -- or an executed string.  It cannot see text that is composed at run time.
  v_gap constant text := $re$(?:\s|/\*.*\*/|--[^\n]*\n)*$re$;
  v_string constant text := v_gap || $re$(?:e|u&)?['$%]$re$; -- also one that format() puts in
  v_start constant text := $re$(?:^|[;'$\n]|\*/|\m(?:begin|then|else|loop|atomic)\M)\s*$re$;
  -- The source of a COPY: a query in parentheses, or a table with an optional column list.
  v_query constant text :=
    $re$\((?:[^;'"$/-]|'+[^']*'+|"[^"]*"|\$\w*\$[^$]*\$\w*\$|/\*.*\*/|--[^\n]*\n|[$/-])*\)$re$;
  v_table constant text :=
    $re$(?:[\w.$%\s]|[^\x01-\x7f]|'+[^']*'+|"[^"]*"|/\*.*\*/|--[^\n]*\n)+(?:\([^)]*\)\s*)?$re$;
  v_function text;
begin
  -- Skip the slow patterns if none of these words occurs.
  if statement !~* '(copy|program|load|session|lo_|dblink|pg_|u&")' then
    null;
  elsif statement ~* '\mcopy\M'
        and statement ~* format('\m(?:to|from)\M%sprogram\M%s', v_gap, v_string)
        or statement ~* format('\moptions%s\(.*\mprogram\M%s', v_gap, v_string) then
    return 'PROGRAM runs a program on the server, which cannot be undone';
  elsif statement ~* format('%scopy\M%s(?:%s|%s)%s\m(?:to|from)\M%s',
                            v_start, v_gap, v_query, v_table, v_gap, v_string) then
    return 'COPY to or from a file of the server cannot be undone, or reads what is not in the database';
  elsif statement ~* format('\m(?:re)?set\M%s(?:(?:local|session)\M%1$s)?session(?:_|%1$s)authorization\M', v_gap)
        or statement ~* format('\mset_config"?%s\(.*session_authorization', v_gap) then
    return 'SET SESSION AUTHORIZATION would run the following statements with other rights';
  elsif statement ~* format('%sload\M%s', v_start, v_string) then
    return 'LOAD cannot be undone';
  elsif statement ~* $re$\mu&"[^"]*\\$re$ then
    return 'a name written with Unicode escapes may stand for any function';
  else
    v_function := (regexp_match(statement, format(
      '(?i)\m(lo_(?:export|import)|dblink\w*|pg_file_\w+|pg_(?:terminate|cancel)_backend|pg_reload_conf'
      '|pg_rotate_logfile\w*|pg_promote|pg_switch_wal|pg_create_restore_point|pg_backup_\w+|pg_wal_replay_\w+'
      '|pg_(?:create|drop|copy|advance|logical|sync)_?\w*(?:replication_slots?|slot_\w+)\w*'
      '|pg_logical_emit_message|pg_log_(?:standby_snapshot|backend_memory_contexts)'
      '|pg_replication_(?:slot|origin)_\w+|pg_(?:try_)?advisory_(?:lock|unlock)(?:_shared|_all)?|pg_stat_reset\w*'
      '|pg_stat_statements_reset|pg_read_(?:binary_)?file|pg_stat_file|pg_ls_\w+)"?%s\(', v_gap)))[1];
    if v_function ~* '^pg_(read|stat_file|ls)' then
      return format('%s() reads what is not in the database', v_function);
    elsif v_function is not null then
      return format('%s() has an effect that cannot be undone', v_function);
    end if;
  end if;

  return case
    when statement ~* '\mconcurrently\M' and statement !~* '^refresh\M' then 'CONCURRENTLY cannot run in a transaction'
    when statement ~* '^(vacuum|cluster|reindex\s+(database|system)|(create|drop)\s+(database|'
      'tablespace|subscription)|alter\s+(system|database))\M'
      then format('%s cannot be undone', upper(substring(statement from '^\w+(?:\s+\w+)?')))
    when statement ~* '^(commit|rollback|end|abort|savepoint|release|prepare\s+transaction)\M'
      and statement !~* '^(commit|end)\s*(work|transaction)?$'
      then 'a transaction within the text cannot be followed'
    when statement ~* '^copy\M.*\mfrom\s+stdin\M' or statement like '\\%'
      then 'it is a command for psql, not for the server'
  end;
end;
$body$;

comment on function notika._undoable(text) is
  'The reason why a statement cannot be run and undone; null: it can.';

create or replace function notika._preview(settled boolean)
  returns table (workflow text, kind text, object text, verdict text, expected text, actual text)
  language plpgsql
  volatile
  security definer
  set search_path = pg_catalog, pg_temp
  set jit = off -- compilation would take longer than the queries run
  set quote_all_identifiers = off
as $$
declare
  v_workflow_id integer;
begin
  for v_workflow_id in
    select distinct p.workflow_id from notika.guard_pending as p order by 1
  loop
    if not exists (
      select from notika.guard_pending as p
       where p.workflow_id = v_workflow_id and p.dropped is not null
    ) then
      begin
        perform notika._reconcile(v_workflow_id, 'check_ddl', _preview.settled);
      exception
        when serialization_failure or deadlock_detected or lock_not_available then
          raise;
        when undefined_object or undefined_function or insufficient_privilege or sqlstate 'NK002' then
          null; -- as at commit
        when others then
          return query
            select w.name, 'not_judged', w.table_name, 'warned', null, format('%s (%s)', sqlerrm, sqlstate)
              from notika.workflow as w
             where w.workflow_id = v_workflow_id;
      end;
    end if;
    return query
      select w.name, f.kind, f.object, notika._verdict(w, f.kind), f.expected, f.actual
        from notika.workflow as w
       cross join lateral notika._try_findings(w) as f
       where w.workflow_id = v_workflow_id and w.unpublished_at is null
         -- A dropped trigger is only a consequence of another breaking finding.
         and (f.kind <> 'trigger_dropped' or not exists (
           select from notika._try_findings(w) as o
            where notika._is_breaking(o.kind) and o.kind <> 'trigger_dropped'
         ));
  end loop;
  return query
    select l.workflow, l.kind, l.object, l.verdict, l.expected, l.actual
      from notika.guard_log as l
     where l.xid = pg_current_xact_id() and l.verdict in ('followed', 'healed')
       -- Leave out earlier entries of the transaction.
       and l.at >= statement_timestamp();
end;
$$;

comment on function notika._preview(boolean) is
  'The findings of the guard at this moment about the workflows that this transaction has touched.';

create or replace function notika._preview_pinned(sql text, path text)
  returns void
  language plpgsql
  volatile
  security invoker
  set search_path = pg_catalog, pg_temp
as $$
begin
  perform notika._submit_request('_preview_pinned', jsonb_build_object(
    'sql', _preview_pinned.sql, 'path', _preview_pinned.path));
end;
$$;

comment on function notika._preview_pinned(text, text) is
  'Lifts the pins that would hide what the migration does, where there are no event triggers.';

create or replace function notika._do_preview_pinned(caller name, sql text, path text)
  returns void
  language plpgsql
  volatile
  set search_path = pg_catalog, pg_temp
as $$
declare
  v_workflow_id integer;
begin
  if notika._has_event_triggers() then
    return;
  end if;
  for v_workflow_id in
    select distinct w.workflow_id
      from notika._split(_do_preview_pinned.sql) as c
     cross join lateral notika._named_tables(c.bare, _do_preview_pinned.path) as n (relation)
      -- Leave out tables that the caller may not alter: the command fails, and no session should
      -- wait.
      join pg_class as k on k.oid = n.relation and pg_has_role(_do_preview_pinned.caller, k.relowner, 'usage')
     cross join lateral notika._tables(n.relation) as d (relation)
      join notika.contract_table as t on t.relation = d.relation
      join notika.workflow as w on w.workflow_id = t.workflow_id and w.unpublished_at is null
  loop
    perform notika._queue_verdict(array[v_workflow_id], 'CHECK', 'check_ddl');
    perform notika._loosen(v_workflow_id);
  end loop;
end;
$$;

comment on function notika._do_preview_pinned(name, text, text) is 'Carries out _preview_pinned.';

create or replace function notika._try_ddl(sql text, path text)
  returns table (
    statement_number integer,
    line integer,
    statement text,
    workflow text,
    verdict text,
    problem text,
    remedy text
  )
  language plpgsql
  volatile
  security invoker -- it runs the caller's DDL, so with the caller's rights
  set search_path = pg_catalog, pg_temp
  set standard_conforming_strings = on
as $$
declare
  v_before constant text := current_setting('lock_timeout');
  v_statement record;
  v_reason text;
  v_message text;
  v_detail text;
  v_hint text;
  v_seen jsonb[] := array[]::jsonb[]; -- the findings after each statement
  v_lines integer[] := array[]::integer[];
  v_texts text[] := array[]::text[];
  v_said jsonb := '[]'::jsonb; -- the findings that were returned
  v_found jsonb;
  v_is_over boolean := false;
begin
  perform set_config('lock_timeout', notika._lock_timeout('500ms'), true);
  begin
    perform notika._preview_pinned(sql, path);
    for v_statement in
      select s.line, s.statement,
             s.statement ~* '^(begin|start[[:space:]]+transaction)[[:space:]]*(work|transaction)?$' as begins,
             s.statement ~* '^(commit|end)[[:space:]]*(work|transaction)?$' as commits
        from notika._split(_try_ddl.sql) as s
      union all
      select null, null, false, true -- the end of the text
    loop
      continue when v_statement.begins;
      if not v_statement.commits then
        v_lines := v_lines || v_statement.line;
        v_texts := v_texts || v_statement.statement;
        v_reason := notika._undoable(v_statement.statement);
        if v_reason is not null then
          statement_number := cardinality(v_texts);
          line := v_statement.line;
          statement := v_statement.statement;
          verdict := 'unknown';
          problem := format('cannot be tried: %s', v_reason);
          remedy := 'Check the other statements without this one.';
          return next;
          v_seen := v_seen || coalesce(v_seen[cardinality(v_seen)], '[]');
          continue;
        end if;

        begin
          perform set_config('search_path', path, true);
          execute v_statement.statement;
          -- Until search_path is reset, a name may refer to any object: qualify names, use no
          -- operators.
          path := pg_catalog.current_setting('search_path');
          perform pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
        exception when others then
          get stacked diagnostics
            v_message = message_text, v_detail = pg_exception_detail, v_hint = pg_exception_hint;
          statement_number := cardinality(v_texts);
          line := v_statement.line;
          statement := v_statement.statement;
          -- An error of another origin, such as a dependent view, has nothing to do with a
          -- workflow.
          verdict := case when sqlstate = 'NK001' or sqlstate in ('2BP01', '0A000')
                            and concat(v_message, v_detail) ~ '\mnotika[._]'
                          then 'breaks' else 'error' end;
          problem := concat_ws(E'\n', v_message, nullif(v_detail, ''));
          remedy := nullif(v_hint, '');
          return next;
          v_is_over := true; -- the next statements would run in a state that never occurs
        end;
        if not v_is_over then
          v_seen := v_seen || (
            select coalesce(jsonb_agg(jsonb_build_array(f.workflow, f.kind, f.object, f.verdict)), '[]')
              from notika._preview(false) as f
          );
          continue;
        end if;
      end if;

      -- A transaction ends here: collect the verdicts about its result.
      select coalesce(jsonb_agg(to_jsonb(f)), '[]') into v_found from notika._preview(true) as f;
      for statement_number, workflow, verdict, problem, remedy in
        select b.number, f.workflow,
               case f.verdict when 'blocked' then 'breaks' when 'warned' then 'warns'
                              when 'ignored' then 'breaks unguarded' else f.verdict end,
               format('%s %s%s', replace(f.kind, '_', ' '), f.object,
                      case when f.actual is not null
                           then format(': %s instead of %s', f.actual, f.expected) else '' end),
               case when f.verdict = 'blocked' then format(
                 'Publish %1$s again in the same transaction, or there: select notika.allow_breaking_change(%1$L, ''<reason>'');',
                 f.workflow)
                    when f.verdict = 'healed' and exists (
                      select from unnest(v_seen) as s (seen)
                       where s.seen @> jsonb_build_array(jsonb_build_array(f.workflow, f.object, 'blocked'))
                    ) then
                 'Run the migration in one transaction: otherwise the guard refuses this statement.'
               end
          from jsonb_to_recordset(v_found) as f (
                 workflow text, kind text, object text, verdict text, expected text, actual text)
         cross join lateral (
           -- The first statement after which the finding lasted until now.
           select coalesce(max(s.place) filter (
                    where not s.seen @> jsonb_build_array(jsonb_build_array(f.workflow, f.kind, f.object))
                  ), 0)::integer + 1 as number
             from unnest(v_seen) with ordinality as s (seen, place)
         ) as n
         cross join lateral (select least(n.number, cardinality(v_texts)) as number) as b
         where not v_said @> jsonb_build_array(jsonb_build_array(f.workflow, f.kind, f.object, f.verdict))
         order by 1, 2, 4
      loop
        line := v_lines[statement_number];
        statement := v_texts[statement_number];
        return next;
      end loop;
      v_said := v_said || (
        select coalesce(jsonb_agg(jsonb_build_array(f.workflow, f.kind, f.object, f.verdict)), '[]')
          from jsonb_to_recordset(v_found) as f (workflow text, kind text, object text, verdict text)
      );
      exit when v_is_over or v_statement.line is null or exists (
        select from jsonb_to_recordset(v_found) as f (verdict text) where f.verdict = 'blocked'
      );
      -- Judge this transaction as its commit would, and begin the next one.
      set constraints notika.guard_at_commit immediate;
      set constraints notika.guard_at_commit deferred;
      perform notika._preview_pinned(sql, path);
    end loop;
    raise exception 'undo' using errcode = 'NKUND';
  exception when sqlstate 'NKUND' then
    null;
  end;
  perform set_config('lock_timeout', v_before, true);
end;
$$;

comment on function notika._try_ddl(text, text) is
  'Runs a migration with the caller''s rights on this search path, undoes it, and returns the '
  'findings of the guard.';

create or replace function notika.check_ddl(sql text)
  returns table (
    statement_number integer,
    line integer,
    statement text,
    workflow text,
    verdict text,
    problem text,
    remedy text
  )
  language sql
  volatile
  security invoker
  -- It does not set search_path, because it only passes on the caller's.
as $$
  select t.statement_number, t.line, t.statement, t.workflow, t.verdict, t.problem, t.remedy
    from notika._try_ddl(check_ddl.sql, pg_catalog.current_setting('search_path')) as t;
$$;

comment on function notika.check_ddl(text) is
  'Returns what a migration would do to the workflows, statement by statement: breaks, warns, '
  'followed, healed, error or unknown. RUNS the text with the rights of the caller and undoes it. '
  'Use it only for trusted text and with a role of its own; for other text use npx notika check '
  '--schema. Statements with known effects that no rollback undoes, such as COPY ... TO PROGRAM, '
  'are not run (unknown). Waits half a second for each lock, or lock_timeout if that is less. No '
  'rows: no workflow is affected. Sequences keep their new values.';
