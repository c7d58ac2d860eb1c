import type { Statement } from "./psql_script.ts";

/** Whether a statement is irrelevant to a schema: transactions, rows, comments, other databases, the current role. */
export function isOfNoUse({ bare }: Statement): boolean {
  return noUse.some((pattern) => pattern.test(bare));
}

const noUse = [
  /^(begin|commit|end|rollback|abort|savepoint|release)\b|^start transaction\b/i,
  /^copy .*\bfrom stdin\b/i,
  /^(re)?set (session |local )?(session authorization|session_authorization|role)\b/i,
  /^set (session )?(client_encoding|transaction|transaction_timeout|default_tablespace)\b/i,
  /^(create|alter|drop|comment on|grant .* on|revoke .* on|security label .* on) (database|subscription|large object)\b/i,
  /^select (pg_catalog\.)?lo(_\w+|write|read)\s*\(/i,
  /^(vacuum|analyze|cluster|reindex|checkpoint|lock)\b/i,
  /^alter system\b/i,
  /^comment on\b/i,
];

/** Whether a statement concerns Notika's own objects, which the database already has. */
export function isOfNotika({ text, bare }: Statement): boolean {
  return (
    notikas.some((pattern) => pattern.test(bare)) ||
    (/^select (pg_catalog\.)?setval\b/i.test(bare) && /setval\(\s*'"?notika(_worker)?"?\./i.test(text))
  );
}

const notikas = [
  // The object of the statement: there is no other name with a schema before it.
  /^(create|alter|drop|comment on|grant|revoke|security label|refresh)\b[^.]*? schema "?notika(_worker)?"?( |,|$)/i,
  /^(create|alter|drop|comment on|copy|insert into|truncate|security label|refresh)\b(?:(?!\b(as|from|execute|references|using)\b)[^.(])*[\s"(]notika(_worker)?"?\./i,
  /^(grant|revoke)\b[^.]*[\s"]notika(_worker)?"?\./i,
  /^(create|alter|drop|comment on) event trigger "?notika_/i,
  /^(create|comment on|alter|drop)\b.*? trigger "?notika_\d+_[a-z]+"?( |$)/i,
  /^(create|alter|comment on) role "?notika(_\w+)?"?( |$)/i,
  /^grant "?notika(_\w+)?"? to /i,
];

/** Whether a statement neither creates nor changes a table, type or function. */
export function isOnlyRows(bare: string): boolean {
  return /^(insert|update|delete|merge|select|with|values|table|call|do|set|reset|comment|grant|revoke|security label|alter default|alter role|create role|refresh)\b|^alter .* owner to /i.test(
    bare,
  );
}
