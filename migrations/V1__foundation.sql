-- The foundation: roles, schemas, the extension, and the settings that several services read (OPS-2, OPS-3).
-- A superuser runs each migration in one transaction. `postern migrate` then hands everything in our schemas to
-- postern_owner, so no migration has to.

-- `postern migrate` makes the roles before, and each time anew what a dump that somebody restores by hand may lack: their
-- settings in this database, and what every role of a database may do (server/src/database/roles.rs). This is for the
-- extension's tests, which have the migrations alone.
DO $$
DECLARE
    role text;
BEGIN
    -- Roles belong to the whole cluster: another database of it may have made them already.
    FOREACH role IN ARRAY ARRAY['postern_owner', 'postern_server', 'postern_operator', 'postern_monitor', 'postern_backup'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        EXCEPTION WHEN duplicate_object THEN
            NULL;
        END;
    END LOOP;
END
$$;

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
    message_days integer NOT NULL DEFAULT 30 CHECK (message_days BETWEEN 1 AND 60),
    figure_days integer NOT NULL DEFAULT 730 CHECK (figure_days BETWEEN 31 AND 36500)
);
COMMENT ON TABLE operator.settings IS 'Settings that more than one service reads: one row. A service''s own are in its schema';
COMMENT ON COLUMN operator.settings.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN operator.settings.home_domain IS
    'Domain that this server is the home of: the part of user names after @ (OPS-2); null until the first server claims one. Set once, then never changes';
COMMENT ON COLUMN operator.settings.ciphersuites IS
    'MLS ciphersuites (RFC 9420 §17.1) allowed for new groups, members and KeyPackages; 1 is always among them. 77 and 79 are post-quantum, under numbers that other libraries may use for other suites (DS-3), so neither is allowed by default. Changes as the operator likes';
COMMENT ON COLUMN operator.settings.message_days IS
    'Whole days (UTC) that a message waits for its reader; it may stay longer, as long as messages of its chain do. No more than 60, because KeyPackages are valid for 84 and have to outlast the messages that add them. Changes as the operator likes';
COMMENT ON COLUMN operator.settings.figure_days IS
    'Whole days (UTC) for which figures of a day are kept: tokens that were issued, requests that they paid for, messages that were removed unread. Changes as the operator likes';
INSERT INTO operator.settings DEFAULT VALUES;

CREATE TRIGGER home_domain_is_immutable BEFORE UPDATE ON operator.settings
    FOR EACH ROW WHEN (OLD.home_domain IS DISTINCT FROM NEW.home_domain AND OLD.home_domain IS NOT NULL)
    EXECUTE FUNCTION operator.refuse_change('the home domain');
CREATE TRIGGER home_domain_stays BEFORE DELETE OR TRUNCATE ON operator.settings
    FOR EACH STATEMENT EXECUTE FUNCTION operator.refuse_change('the home domain');
-- ALWAYS: also for a session that set session_replication_role.
ALTER TABLE operator.settings
    ENABLE ALWAYS TRIGGER home_domain_is_immutable, ENABLE ALWAYS TRIGGER home_domain_stays;

CREATE TYPE operator.attempt AS ENUM ('registration', 'reset', 'rendezvous', 'token_request', 'introduction');
COMMENT ON TYPE operator.attempt IS
    'What can be attempted a few times in an hour: by strangers, to register, to reset an account (AS-8), to join a rendezvous (AS-7), to introduce a homeserver (FED-1); by signers, to ask for tokens in vain (AAS-8)';

-- Tables from which something goes that is to be forgotten have an autovacuum_vacuum_threshold of 0, here and below:
-- PostgreSQL would wait for fifty dead rows before it takes them off their pages, and on a small server they may never come
-- (PRIV-3). Where rows change with every use there is a scale factor, too, since dead rows never wait long there.
--
-- The counts are lost with a crash, and are never in WAL, replicas or base backups.
CREATE UNLOGGED TABLE operator.attempts (
    kind operator.attempt,
    source bytea CHECK (octet_length(source) IN (0, 32)),
    hour integer NOT NULL,
    attempts integer NOT NULL,
    PRIMARY KEY (kind, source)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE operator.attempts IS
    'Attempts in the present hour, each kind apart. No row leads to a user or rendezvous, and each goes when its hour is over';
COMMENT ON COLUMN operator.attempts.kind IS 'What is attempted. Never changes';
COMMENT ON COLUMN operator.attempts.source IS
    'HMAC of the network address, of a network that it is in, or of a signer''s key, under a key of the server that is not in the database, another for each kind; empty: all together. Never changes';
COMMENT ON COLUMN operator.attempts.hour IS 'Hour (hours since 1970) that is counted. Grows';
COMMENT ON COLUMN operator.attempts.attempts IS
    'Attempts that were taken in that hour, whatever became of them. Grows, and begins anew with each hour';

CREATE TABLE operator.schema_state (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    migration integer NOT NULL,
    functions_hash bytea NOT NULL CHECK (octet_length(functions_hash) = 32),
    release text NOT NULL,
    previous text,
    applied date NOT NULL
);
COMMENT ON TABLE operator.schema_state IS 'Version of Postern that this schema is of: one row, written by `postern migrate`';
COMMENT ON COLUMN operator.schema_state.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN operator.schema_state.migration IS 'Number of the last migration. Grows';
COMMENT ON COLUMN operator.schema_state.functions_hash IS
    'SHA-256 of the files of sql/ that were applied last: they are applied again when it differs. Changes with them';
COMMENT ON COLUMN operator.schema_state.release IS 'Release of Postern that migrated last, such as 0.1.0. Changes with each';
COMMENT ON COLUMN operator.schema_state.previous IS
    'Release before it, whose servers may go on for now (OPS-6): functions that only these call are kept; null: there is none. Changes with each release';
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

CREATE FUNCTION operator.origin() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- The control file learns of a timeline only with the next checkpoint.
    SELECT s.system_identifier || '/' || CASE WHEN NOT pg_is_in_recovery()
                                              THEN left(pg_walfile_name(pg_current_wal_lsn()), 8) END
                             || '/' || d.oid
      FROM pg_control_system() s
      JOIN pg_database d ON d.datname = current_database()
$$;
COMMENT ON FUNCTION operator.origin IS
    'The database cluster, its timeline and the database''s oid: another cluster, or another database of one, was restored from a dump; another timeline begins with a recovery up to a point in time, or with the promotion of a standby (QS-12)';

CREATE TABLE operator.generation (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    -- A number has 31 bits, so that those of messages have 53.
    number bigint NOT NULL DEFAULT 0 CHECK (number BETWEEN 0 AND 2147483647),
    origin text NOT NULL DEFAULT operator.origin(),
    begun date,
    decided bigint NOT NULL DEFAULT 0,
    waited boolean NOT NULL DEFAULT false,
    followed text
);
COMMENT ON TABLE operator.generation IS
    'Generation of this database: one row. A restore to an earlier state begins another, so that no number that was given out in the lost time is given out again (QS-12)';
COMMENT ON COLUMN operator.generation.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN operator.generation.number IS
    'Number of the generation: seconds since 2020 when it began, or more, so that it is greater than any of a time that was lost; 0: nothing was restored yet. Grows';
COMMENT ON COLUMN operator.generation.origin IS
    'Cluster, timeline and oid that the operator last said are this database''s, by beginning a generation or keeping it. Changes with that';
COMMENT ON COLUMN operator.generation.begun IS 'Day (UTC) on which it began; null: with the database. Changes with number';
COMMENT ON COLUMN operator.generation.decided IS
    'Number of the operator''s last decision about the generation, as number is made; 0: there was none. Grows with each';
COMMENT ON COLUMN operator.generation.waited IS
    'Whether each commit waited for each standby when a server looked last: one that is promoted then has everything. Changes with the standbys';
COMMENT ON COLUMN operator.generation.followed IS
    'Cluster, timeline and oid, as origin, of which waited tells: whatever waited says, the promotions up to there had everything; null: no server has looked. Changes with each promotion that had everything';
INSERT INTO operator.generation DEFAULT VALUES;

CREATE TABLE operator.witnesses (
    witness bytea PRIMARY KEY CHECK (octet_length(witness) = 16),
    mark bytea NOT NULL CHECK (octet_length(mark) = 16),
    noted bigint NOT NULL
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE operator.witnesses IS
    'Marks of server processes, which each keeps in a file outside of the database, too: a database that was put back to an earlier state has earlier ones (QS-12)';
COMMENT ON COLUMN operator.witnesses.witness IS 'Id of the file: random bytes. Never changes';
COMMENT ON COLUMN operator.witnesses.mark IS 'Random bytes. Changes every minute while a process with this file runs';
COMMENT ON COLUMN operator.witnesses.noted IS
    'Place in the order in which marks were noted: those of which the last mark is oldest go when there are too many. Grows with each mark';

CREATE TABLE operator.days (
    day date PRIMARY KEY
);
COMMENT ON TABLE operator.days IS
    'The last three days on which something was to expire: a clock that is ahead for some hours brings no more than two that are none (operator.note_day)';
COMMENT ON COLUMN operator.days.day IS
    'Day (UTC), by the clock of the database. Never changes; a row goes when three are later, or when an earlier day comes';

CREATE TABLE operator.calendar (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    day date NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date
);
COMMENT ON TABLE operator.calendar IS
    'The newest day that the database knows: one row. What comes while a clock is behind has this date, and does not expire when the clock is right again';
COMMENT ON COLUMN operator.calendar.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN operator.calendar.day IS
    'Day (UTC) up to which things expire, or did: a clock that is behind leaves it for three days. Grows, but for that (operator.note_day)';
INSERT INTO operator.calendar DEFAULT VALUES;
-- Backends keep the day of deliveries in memory.
CREATE TRIGGER calendar_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON operator.calendar
    FOR EACH STATEMENT EXECUTE FUNCTION postern.forget();
ALTER TABLE operator.calendar ENABLE ALWAYS TRIGGER calendar_changed;

CREATE FUNCTION operator.today() RETURNS date
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN greatest((now() AT TIME ZONE 'UTC')::date, (SELECT c.day FROM operator.calendar c));
END
$$;
COMMENT ON FUNCTION operator.today IS
    'The day (UTC) with which a row is dated that is to expire some days later: today, or the newest known day if the clock is behind that. The extension dates messages in the same way (pg_extension/src/queues.rs)';

CREATE TABLE operator.last_backup (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    day date,
    since date NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date,
    warn_days integer NOT NULL DEFAULT 2 CHECK (warn_days BETWEEN 1 AND 366)
);
COMMENT ON TABLE operator.last_backup IS 'Last backup of this database: one row, of which operator.health tells (OPS-5)';
COMMENT ON COLUMN operator.last_backup.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN operator.last_backup.day IS
    'Day (UTC) on which a backup succeeded last; null: none did. Changes with each';
COMMENT ON COLUMN operator.last_backup.since IS
    'Day (UTC) on which this database was made: where no backup ever succeeded, operator.health counts from there. Never changes';
COMMENT ON COLUMN operator.last_backup.warn_days IS
    'Days without a backup after which operator.health warns; after seven times as many it is a problem. Changes by the operator';
INSERT INTO operator.last_backup DEFAULT VALUES;

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

CREATE TYPE operator.takes_changes_outcome AS ENUM ('yes', 'standby', 'commits_wait');
COMMENT ON TYPE operator.takes_changes_outcome IS 'Outcomes of operator.takes_changes';
CREATE TYPE operator.note_mark_outcome AS ENUM ('noted', 'behind');
COMMENT ON TYPE operator.note_mark_outcome IS 'Outcomes of operator.note_mark';
CREATE TYPE operator.health_outcome AS ENUM ('ok', 'warning', 'problem');
COMMENT ON TYPE operator.health_outcome IS
    'Verdicts of operator.health. warning: somebody should look, within days. problem: something does not work, or is about to stop';

-- Outcomes of API functions, success first.
CREATE TYPE operator.claim_home_domain_outcome AS ENUM ('claimed', 'same', 'different', 'invalid');
COMMENT ON TYPE operator.claim_home_domain_outcome IS 'Outcomes of operator.claim_home_domain';
CREATE TYPE operator.claim_master_key_outcome AS ENUM ('claimed', 'same', 'different');
COMMENT ON TYPE operator.claim_master_key_outcome IS 'Outcomes of operator.claim_master_key';
CREATE TYPE operator.begin_master_key_change_outcome AS ENUM ('begun', 'under_way', 'ended', 'different');
COMMENT ON TYPE operator.begin_master_key_change_outcome IS 'Outcomes of operator.begin_master_key_change';
CREATE TYPE operator.end_master_key_change_outcome AS ENUM ('ended', 'unfinished');
COMMENT ON TYPE operator.end_master_key_change_outcome IS 'Outcomes of operator.end_master_key_change';
