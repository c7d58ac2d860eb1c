-- Runs last.  Nobody but the owner may do anything until somebody is granted it: default
-- privileges would give EXECUTE on every function to everybody, and `alter default privileges`
-- in a schema cannot take that away.

revoke all on schema notika from public;
revoke all on all tables in schema notika from public;
revoke all on all sequences in schema notika from public;
revoke execute on all functions in schema notika from public;
