-- Roles, schemas, the extension, and what the database knows about itself (OPS-2, OPS-3).
-- Runs as a superuser, in one transaction. Whatever this and later migrations create in our schemas is handed to
-- postern_owner afterwards, so no migration needs to say so.

DO $$
DECLARE
    role text;
BEGIN
    -- Roles belong to the whole cluster: another database of it may have made them already.
    FOREACH role IN ARRAY ARRAY['postern_owner', 'postern_server', 'postern_operator', 'postern_monitor'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        EXCEPTION WHEN duplicate_object THEN
            NULL;
        END;
    END LOOP;
    ALTER ROLE postern_server LOGIN;

    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO postern_server, postern_operator, postern_monitor',
                   current_database());
    -- Names are always qualified, so nothing is found by accident.
    EXECUTE format('ALTER ROLE postern_server IN DATABASE %I SET search_path = pg_catalog', current_database());
    -- A server that is frozen in a transaction must not hold its locks for long.
    EXECUTE format('ALTER ROLE postern_server IN DATABASE %I SET idle_in_transaction_session_timeout = %L',
                   current_database(), '30s');
END
$$;

COMMENT ON ROLE postern_owner IS 'Owns everything of Postern; nobody logs in as it';
COMMENT ON ROLE postern_server IS 'The Postern server: executes API functions, listens, and nothing else';
COMMENT ON ROLE postern_operator IS 'Manages Postern through schema operator';
COMMENT ON ROLE postern_monitor IS 'Reads health and figures';

REVOKE ALL ON SCHEMA public FROM PUBLIC;

CREATE SCHEMA IF NOT EXISTS postern;
CREATE SCHEMA auth AUTHORIZATION postern_owner;
CREATE SCHEMA aas AUTHORIZATION postern_owner;
CREATE SCHEMA ds AUTHORIZATION postern_owner;
CREATE SCHEMA qs AUTHORIZATION postern_owner;
CREATE SCHEMA operator AUTHORIZATION postern_owner;

COMMENT ON SCHEMA postern IS 'The extension: what must be native code';
COMMENT ON SCHEMA auth IS 'Authentication Service';
COMMENT ON SCHEMA aas IS 'Anonymous Authentication Service';
COMMENT ON SCHEMA ds IS 'Delivery Service';
COMMENT ON SCHEMA qs IS 'Queuing Service';
COMMENT ON SCHEMA operator IS 'For whoever runs this server: everything is managed here, with SQL';

CREATE EXTENSION IF NOT EXISTS postern SCHEMA postern;
GRANT USAGE ON SCHEMA postern TO postern_owner;

-- For objects that nobody granted yet: nothing is for everyone.
ALTER DEFAULT PRIVILEGES FOR ROLE postern_owner REVOKE ALL ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE postern_owner REVOKE ALL ON TYPES FROM PUBLIC;

CREATE DOMAIN operator.domain_name AS text COLLATE "C"
    CHECK (VALUE ~ '^(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$');
COMMENT ON DOMAIN operator.domain_name IS
    'A fully qualified domain name: lower case, at least two labels, no final dot, not an IP address';

CREATE TABLE operator.home_domain (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    domain operator.domain_name NOT NULL
);
COMMENT ON TABLE operator.home_domain IS 'Whose server this database belongs to: one row, set once (OPS-2)';
COMMENT ON COLUMN operator.home_domain.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN operator.home_domain.domain IS 'What stands after @ in user names. Never changes';

CREATE FUNCTION operator.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '%.% never changes', tg_table_schema, tg_table_name
        USING ERRCODE = 'object_not_in_prerequisite_state';
END
$$;
COMMENT ON FUNCTION operator.refuse_change IS 'Trigger of tables whose rows stay as they were inserted';

CREATE TRIGGER home_domain_is_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON operator.home_domain
    FOR EACH STATEMENT EXECUTE FUNCTION operator.refuse_change();
-- ALWAYS: also for a session that set session_replication_role.
ALTER TABLE operator.home_domain ENABLE ALWAYS TRIGGER home_domain_is_immutable;

CREATE TABLE operator.schema_state (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    migration integer NOT NULL,
    functions_hash bytea NOT NULL CHECK (octet_length(functions_hash) = 32),
    applied date NOT NULL
);
COMMENT ON TABLE operator.schema_state IS 'Which version of Postern this schema is: one row, written by `postern migrate`';
COMMENT ON COLUMN operator.schema_state.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN operator.schema_state.migration IS 'Number of the last migration. Grows';
COMMENT ON COLUMN operator.schema_state.functions_hash IS
    'SHA-256 of the files of sql/ that were applied last: they are applied again when it differs. Changes';
COMMENT ON COLUMN operator.schema_state.applied IS 'Day (UTC) of the last change. Changes';
