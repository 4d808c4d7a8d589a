-- Rendezvous: mailboxes of a few minutes, in which a user's old and new device meet (AS-7). Nothing here refers to a
-- user: an owner is a key that was made for one rendezvous, and paid with a token.
--
-- The content of a rendezvous is never in WAL, replicas or base backups, and a crash of PostgreSQL ends all of them: the two
-- devices begin anew.

CREATE SCHEMA rendezvous AUTHORIZATION postern_owner;
COMMENT ON SCHEMA rendezvous IS 'Rendezvous of a user''s old and new device';

CREATE TABLE rendezvous.settings (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    minutes integer NOT NULL DEFAULT 10 CHECK (minutes BETWEEN 1 AND 60),
    max_rendezvous integer NOT NULL DEFAULT 500 CHECK (max_rendezvous BETWEEN 0 AND 100000),
    max_payloads integer NOT NULL DEFAULT 100 CHECK (max_payloads BETWEEN 8 AND 1000),
    max_payload_bytes integer NOT NULL DEFAULT 32768 CHECK (max_payload_bytes BETWEEN 8192 AND 45056),
    max_requests integer NOT NULL DEFAULT 300 CHECK (max_requests BETWEEN 50 AND 10000),
    attempts_per_source integer NOT NULL DEFAULT 20 CHECK (attempts_per_source >= 0),
    attempts_per_hour integer NOT NULL DEFAULT 1000 CHECK (attempts_per_hour >= 0),
    network_factor integer NOT NULL DEFAULT 4 CHECK (network_factor BETWEEN 1 AND 256),
    new_sources_percent integer NOT NULL DEFAULT 50 CHECK (new_sources_percent BETWEEN 0 AND 100)
);
COMMENT ON TABLE rendezvous.settings IS 'Settings of rendezvous: one row';
COMMENT ON COLUMN rendezvous.settings.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN rendezvous.settings.minutes IS
    'Minutes that a rendezvous waits for its guest, and that it lives once the guest has come. Changes as the operator likes';
COMMENT ON COLUMN rendezvous.settings.max_rendezvous IS
    'Rendezvous at a time, at most; 0 closes them. Changes as the operator likes';
COMMENT ON COLUMN rendezvous.settings.max_payloads IS
    'Payloads that each side of a rendezvous may leave. Changes as the operator likes';
COMMENT ON COLUMN rendezvous.settings.max_payload_bytes IS
    'Bytes of a payload, at most: it fits into a body of 64 KiB, also in base64; strangers send no larger one. Changes as the operator likes';
COMMENT ON COLUMN rendezvous.settings.max_requests IS
    'Requests of both sides of a rendezvous together, long-polls among them, at most. Changes as the operator likes';
COMMENT ON COLUMN rendezvous.settings.attempts_per_source IS
    'Attempts to join a rendezvous that are taken from one network address in an hour: an IPv4 address, or an IPv6 network of 64 bits. Changes as the operator likes';
COMMENT ON COLUMN rendezvous.settings.attempts_per_hour IS
    'Attempts to join a rendezvous that are taken from all addresses together in an hour. Changes as the operator likes';
COMMENT ON COLUMN rendezvous.settings.network_factor IS
    'How many times as many attempts are taken from a network as from the next narrower one: an IPv4 network of 24 bits, after addresses; IPv6 networks of 56 and 48 bits, after those of 64. Changes as the operator likes';
COMMENT ON COLUMN rendezvous.settings.new_sources_percent IS
    'Part of the attempts of all addresses together, in percent, that is left to those of whose network (24 bits of IPv4, 48 of IPv6) none came in the hour. Changes as the operator likes';
INSERT INTO rendezvous.settings DEFAULT VALUES;

CREATE UNLOGGED TABLE rendezvous.meetings (
    number integer PRIMARY KEY CHECK (number BETWEEN 100000 AND 999999),
    expires integer NOT NULL,
    owner_key bytea NOT NULL CHECK (octet_length(owner_key) = 32),
    guest_key bytea CHECK (octet_length(guest_key) = 32),
    from_owner bytea[] NOT NULL DEFAULT '{}',
    from_guest bytea[] NOT NULL DEFAULT '{}',
    requests integer NOT NULL DEFAULT 0,
    CHECK (guest_key <> owner_key)
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
-- Sealed bytes do not compress.
ALTER TABLE rendezvous.meetings ALTER from_owner SET STORAGE EXTERNAL, ALTER from_guest SET STORAGE EXTERNAL;
COMMENT ON TABLE rendezvous.meetings IS
    'Rendezvous under way. A row goes when one side ends the rendezvous, else within a minute after its time';
COMMENT ON COLUMN rendezvous.meetings.number IS 'Random number, a part of the code that a person types. Never changes';
COMMENT ON COLUMN rendezvous.meetings.expires IS
    'Last minute (minutes since 1970) of its life. Changes once, when the guest comes';
COMMENT ON COLUMN rendezvous.meetings.owner_key IS
    'Ed25519 public key (32 bytes) of the side that made it, used for nothing else. Never changes';
COMMENT ON COLUMN rendezvous.meetings.guest_key IS
    'Ed25519 public key (32 bytes) of the side that came, used for nothing else; null until then. Never changes after that, so that a code can be guessed once';
COMMENT ON COLUMN rendezvous.meetings.from_owner IS 'Payloads that the owner left, in order. Grows';
COMMENT ON COLUMN rendezvous.meetings.from_guest IS 'Payloads that the guest left, in order. Grows';
COMMENT ON COLUMN rendezvous.meetings.requests IS 'Requests of both sides. Grows';

CREATE TRIGGER sides_stay BEFORE UPDATE ON rendezvous.meetings
    FOR EACH ROW WHEN (OLD.owner_key <> NEW.owner_key
                       OR OLD.guest_key IS NOT NULL AND OLD.guest_key IS DISTINCT FROM NEW.guest_key)
    EXECUTE FUNCTION operator.refuse_change('a side of a rendezvous');
ALTER TABLE rendezvous.meetings ENABLE ALWAYS TRIGGER sides_stay;

-- Outcomes of API functions, success first.
CREATE TYPE rendezvous.create_rendezvous_outcome AS ENUM ('created', 'token_spent', 'full');
COMMENT ON TYPE rendezvous.create_rendezvous_outcome IS 'Outcomes of rendezvous.create_rendezvous';
CREATE TYPE rendezvous.join_rendezvous_outcome AS ENUM (
    'joined', 'source_limited', 'server_limited', 'signature_used', 'unknown', 'closed');
COMMENT ON TYPE rendezvous.join_rendezvous_outcome IS 'Outcomes of rendezvous.join_rendezvous';
CREATE TYPE rendezvous.leave_payload_outcome AS ENUM ('left', 'signature_used', 'unknown', 'too_large', 'closed');
COMMENT ON TYPE rendezvous.leave_payload_outcome IS 'Outcomes of rendezvous.leave_payload';
CREATE TYPE rendezvous.receive_payloads_outcome AS ENUM ('received', 'signature_used', 'unknown', 'closed');
COMMENT ON TYPE rendezvous.receive_payloads_outcome IS
    'Outcomes of rendezvous.receive_payloads and rendezvous.next_payloads';
CREATE TYPE rendezvous.end_rendezvous_outcome AS ENUM ('ended', 'signature_used', 'unknown');
COMMENT ON TYPE rendezvous.end_rendezvous_outcome IS 'Outcomes of rendezvous.end_rendezvous';
