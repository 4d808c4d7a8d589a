-- The foundation: roles, schemas, the extension, and the settings that several services read (OPS-2, OPS-3).
-- A superuser runs each migration in one transaction. `postern migrate` then hands everything in our schemas to
-- postern_owner, so no migration has to.

DO $$
DECLARE
    role text;
    setting text;
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
    FOREACH setting IN ARRAY ARRAY[
        -- Names are always qualified, so nothing is found by accident.
        'search_path = pg_catalog',
        -- A server that is frozen in a transaction must not hold its locks for long.
        'idle_in_transaction_session_timeout = ''30s''',
        -- The server's statements are planned once, and by index. A backend whose plans were made while the tables
        -- were small must not read them whole when they are large; and deliveries lock queues in the order in which
        -- their ids are joined, which a hash would shuffle. These are settings of the role and not SET clauses of the
        -- functions, because a SET clause costs a delivery to 10 queues a fifth of its time.
        'plan_cache_mode = force_generic_plan', 'enable_seqscan = off', 'enable_hashjoin = off', 'enable_mergejoin = off'
    ] LOOP
        EXECUTE format('ALTER ROLE postern_server IN DATABASE %I SET %s', current_database(), setting);
    END LOOP;
END
$$;

COMMENT ON ROLE postern_owner IS 'Owns everything of Postern; nobody logs in as it';
COMMENT ON ROLE postern_server IS 'The Postern server: executes API functions, listens, and nothing else';
COMMENT ON ROLE postern_operator IS 'Manages Postern through the functions of schema operator';
COMMENT ON ROLE postern_monitor IS 'Reads health and figures through functions of schema operator';

REVOKE ALL ON SCHEMA public FROM PUBLIC;

-- Rights that PostgreSQL gives every role of a database, and that none of ours needs: to make large objects, hold
-- advisory locks (the one of `postern migrate`, for ever), notify, write messages of any size into the WAL, run anonymous
-- code. The NOTIFY statement needs no privilege: servers recognise the notifications of the database (QS-9).
DO $$
DECLARE
    free regprocedure;
BEGIN
    FOR free IN
        SELECT p.oid FROM pg_proc p
         WHERE p.pronamespace = 'pg_catalog'::regnamespace
           AND p.proname ~ '^(lo_\w+|loread|lowrite|pg_(try_)?advisory_\w+|pg_notify|pg_logical_emit_message)$'
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', free);
    END LOOP;
END
$$;
REVOKE USAGE ON LANGUAGE plpgsql, sql FROM PUBLIC;
GRANT USAGE ON LANGUAGE plpgsql, sql TO postern_owner;
GRANT EXECUTE ON FUNCTION pg_catalog.pg_notify TO postern_owner;

CREATE SCHEMA postern;
CREATE SCHEMA auth AUTHORIZATION postern_owner;
CREATE SCHEMA aas AUTHORIZATION postern_owner;
CREATE SCHEMA ds AUTHORIZATION postern_owner;
CREATE SCHEMA qs AUTHORIZATION postern_owner;
CREATE SCHEMA federation AUTHORIZATION postern_owner;
CREATE SCHEMA operator AUTHORIZATION postern_owner;

COMMENT ON SCHEMA postern IS 'The extension: functions that must be native code';
COMMENT ON SCHEMA auth IS 'Authentication Service (AS)';
COMMENT ON SCHEMA aas IS 'Anonymous Authentication Service (AAS)';
COMMENT ON SCHEMA ds IS 'Delivery Service (DS)';
COMMENT ON SCHEMA qs IS 'Queuing Service (QS)';
COMMENT ON SCHEMA federation IS 'Homeservers of other domains';
COMMENT ON SCHEMA operator IS 'Functions for the operator of this server: everything is managed here, with SQL';

CREATE EXTENSION postern SCHEMA postern;
GRANT USAGE ON SCHEMA postern TO postern_owner;

-- Objects that are granted to nobody are for nobody.
ALTER DEFAULT PRIVILEGES FOR ROLE postern_owner REVOKE ALL ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE postern_owner REVOKE ALL ON TYPES FROM PUBLIC;

CREATE FUNCTION operator.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% never changes', coalesce(tg_argv[0], tg_table_schema || '.' || tg_table_name)
        USING ERRCODE = 'object_not_in_prerequisite_state';
END
$$;
COMMENT ON FUNCTION operator.refuse_change IS
    'Trigger that refuses every change. Its argument names what never changes; without one, that is the table';

CREATE DOMAIN operator.domain_name AS text COLLATE "C"
    CHECK (VALUE ~ '^(?=.{1,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?$');
COMMENT ON DOMAIN operator.domain_name IS
    'Fully qualified domain name: lower case, at least two labels, no final dot, not an IP address';

CREATE TABLE operator.settings (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    home_domain operator.domain_name,
    ciphersuites integer[] NOT NULL DEFAULT '{1,3}'
        CHECK (1 = ANY (ciphersuites) AND ciphersuites <@ '{1,3,77,79}' AND array_position(ciphersuites, NULL) IS NULL),
    message_days integer NOT NULL DEFAULT 30 CHECK (message_days BETWEEN 1 AND 60)
);
COMMENT ON TABLE operator.settings IS 'Settings that more than one service reads: one row. A service''s own are in its schema';
COMMENT ON COLUMN operator.settings.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN operator.settings.home_domain IS
    'Domain that this server is the home of: the part of user names after @ (OPS-2); null until the first server claims one. Set once, then never changes';
COMMENT ON COLUMN operator.settings.ciphersuites IS
    'MLS ciphersuites (RFC 9420 §17.1) allowed for new groups, members and KeyPackages; 1 is always among them. 77 and 79 are post-quantum, under numbers that other libraries may use for other suites (DS-3), so neither is allowed by default. Changes as the operator likes';
COMMENT ON COLUMN operator.settings.message_days IS
    'Whole days (UTC) that a message waits for its reader; it may stay longer, as long as messages of its chain do. No more than 60, because KeyPackages are valid for 84 and have to outlast the messages that add them. Changes as the operator likes';
INSERT INTO operator.settings DEFAULT VALUES;

CREATE TRIGGER home_domain_is_immutable BEFORE UPDATE ON operator.settings
    FOR EACH ROW WHEN (OLD.home_domain IS DISTINCT FROM NEW.home_domain AND OLD.home_domain IS NOT NULL)
    EXECUTE FUNCTION operator.refuse_change('the home domain');
CREATE TRIGGER home_domain_stays BEFORE DELETE OR TRUNCATE ON operator.settings
    FOR EACH STATEMENT EXECUTE FUNCTION operator.refuse_change('the home domain');
-- ALWAYS: also for a session that set session_replication_role.
ALTER TABLE operator.settings
    ENABLE ALWAYS TRIGGER home_domain_is_immutable, ENABLE ALWAYS TRIGGER home_domain_stays;

CREATE TYPE operator.attempt AS ENUM ('registration', 'reset', 'rendezvous', 'token_request');
COMMENT ON TYPE operator.attempt IS
    'What can be attempted a few times in an hour: by strangers, to register, to reset an account (AS-8), to join a rendezvous (AS-7); by signers, to ask for tokens in vain (AAS-8)';

-- The counts are lost with a crash, and are never in WAL, replicas or base backups.
CREATE UNLOGGED TABLE operator.attempts (
    kind operator.attempt,
    source bytea CHECK (octet_length(source) IN (0, 32)),
    hour integer NOT NULL,
    attempts integer NOT NULL,
    PRIMARY KEY (kind, source)
) WITH (fillfactor = 50);
COMMENT ON TABLE operator.attempts IS
    'Attempts in the present hour, each kind apart. No row leads to a user or rendezvous, and each goes when its hour is over';
COMMENT ON COLUMN operator.attempts.kind IS 'What is attempted. Never changes';
COMMENT ON COLUMN operator.attempts.source IS
    'HMAC of the network address, or of a signer''s key, under a key of the server that is not in the database, another for each kind; empty: all together. Never changes';
COMMENT ON COLUMN operator.attempts.hour IS 'Hour (hours since 1970) that is counted. Grows';
COMMENT ON COLUMN operator.attempts.attempts IS
    'Attempts that were taken in that hour, whatever became of them. Grows, and begins anew with each hour';

CREATE TABLE operator.schema_state (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    migration integer NOT NULL,
    functions_hash bytea NOT NULL CHECK (octet_length(functions_hash) = 32),
    applied date NOT NULL
);
COMMENT ON TABLE operator.schema_state IS 'Version of Postern that this schema is of: one row, written by `postern migrate`';
COMMENT ON COLUMN operator.schema_state.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN operator.schema_state.migration IS 'Number of the last migration. Grows';
COMMENT ON COLUMN operator.schema_state.functions_hash IS
    'SHA-256 of the files of sql/ that were applied last: they are applied again when it differs. Changes with them';
COMMENT ON COLUMN operator.schema_state.applied IS 'Day (UTC) of the last change. Changes with it';

CREATE TABLE operator.key_version (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    version bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE operator.key_version IS
    'Version of the keys that server processes keep in memory: one row. A process that compares it every few seconds depends on no notification';
COMMENT ON COLUMN operator.key_version.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN operator.key_version.version IS 'Number of changes of these keys. Grows with each';
INSERT INTO operator.key_version DEFAULT VALUES;

CREATE FUNCTION operator.raise_key_version() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE operator.key_version k SET version = k.version + 1;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION operator.raise_key_version IS
    'Trigger of the tables of keys that server processes keep in memory: raises operator.key_version';

CREATE TABLE operator.master_key (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    key_id bytea CHECK (octet_length(key_id) = 8),
    previous_id bytea CHECK (
        previous_id IS NULL OR octet_length(previous_id) = 8 AND key_id IS NOT NULL AND previous_id <> key_id)
);
COMMENT ON TABLE operator.master_key IS
    'Master key under which servers seal their secrets: one row. The key itself is not in the database';
COMMENT ON COLUMN operator.master_key.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN operator.master_key.key_id IS
    'Id of the key (8 bytes derived from it), with which every value begins that is sealed under it; null until the first server starts. Changes when the operator changes the key';
COMMENT ON COLUMN operator.master_key.previous_id IS
    'Id of the key that it replaces, as long as values may be sealed under that; null: there is no change under way. Changes with it';
INSERT INTO operator.master_key DEFAULT VALUES;
-- Server processes keep the key in memory.
CREATE TRIGGER master_key_changed AFTER UPDATE ON operator.master_key
    FOR EACH STATEMENT EXECUTE FUNCTION operator.raise_key_version();
ALTER TABLE operator.master_key ENABLE ALWAYS TRIGGER master_key_changed;

CREATE FUNCTION operator.check_seal() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sealed bytea;
BEGIN
    EXECUTE format('SELECT ($1).%I', tg_argv[0]) INTO sealed USING new;
    PERFORM FROM operator.master_key m
      WHERE m.key_id <> substr(sealed, 1, 8) AND m.previous_id IS DISTINCT FROM substr(sealed, 1, 8);
    IF FOUND THEN
        RAISE EXCEPTION '%.% is to be sealed under the present master key', tg_table_schema, tg_table_name
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN new;
END
$$;
COMMENT ON FUNCTION operator.check_seal IS
    'Trigger of each column whose values are sealed under the master key: refuses those of another key. Its arguments are the column, the purpose for which servers seal it, and the column with the value''s identity, empty if there is none: by them `postern master-key change` finds and seals the values anew';

CREATE TABLE operator.digest_key (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    sealed_key bytea NOT NULL
);
COMMENT ON TABLE operator.digest_key IS
    'Key by which servers digest what the database is not to have: one row once the first server starts. It outlives the master key, because a digest cannot be made anew';
COMMENT ON COLUMN operator.digest_key.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN operator.digest_key.sealed_key IS
    '32 random bytes, sealed under the server''s master key. The bytes never change; the seal does with the master key';
CREATE TRIGGER digest_key_is_sealed BEFORE INSERT OR UPDATE OF sealed_key ON operator.digest_key
    FOR EACH ROW EXECUTE FUNCTION operator.check_seal('sealed_key', 'digest key', '');
ALTER TABLE operator.digest_key ENABLE ALWAYS TRIGGER digest_key_is_sealed;

-- Outcomes of API functions, success first.
CREATE TYPE operator.claim_home_domain_outcome AS ENUM ('claimed', 'same', 'different', 'invalid');
COMMENT ON TYPE operator.claim_home_domain_outcome IS 'Outcomes of operator.claim_home_domain';
CREATE TYPE operator.claim_master_key_outcome AS ENUM ('claimed', 'same', 'different');
COMMENT ON TYPE operator.claim_master_key_outcome IS 'Outcomes of operator.claim_master_key';
CREATE TYPE operator.begin_master_key_change_outcome AS ENUM ('begun', 'under_way', 'ended', 'different');
COMMENT ON TYPE operator.begin_master_key_change_outcome IS 'Outcomes of operator.begin_master_key_change';
CREATE TYPE operator.end_master_key_change_outcome AS ENUM ('ended', 'unfinished');
COMMENT ON TYPE operator.end_master_key_change_outcome IS 'Outcomes of operator.end_master_key_change';
