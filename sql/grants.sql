-- Who may execute what: the one list (OPS-3). Applied after all functions, as postern_owner; whatever is not
-- named here nobody but the owner can execute. Tables are granted to nobody.

GRANT USAGE ON SCHEMA postern, auth, aas, ds, qs, operator TO postern_server;
GRANT USAGE ON SCHEMA operator TO postern_operator, postern_monitor;

-- postern
GRANT EXECUTE ON FUNCTION postern.wake_secret TO postern_server;

-- operator
GRANT EXECUTE ON FUNCTION operator.claim_home_domain TO postern_server;
GRANT EXECUTE ON FUNCTION operator.current_home_domain TO postern_server, postern_operator, postern_monitor;
GRANT EXECUTE ON FUNCTION operator.current_schema_state TO postern_server, postern_operator, postern_monitor;
