-- Federation: homeservers of other domains: their keys, which may have tokens (AAS-2), their descriptions, and whom this
-- server deals with.

CREATE TABLE federation.homeserver_keys (
    public_key bytea PRIMARY KEY CHECK (octet_length(public_key) = 32),
    domain operator.domain_name NOT NULL,
    pinned date NOT NULL,
    distrusted date,
    not_before bigint,
    not_after bigint
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE federation.homeserver_keys IS
    'Keys with which homeservers of other domains sign requests. A domain may have several, since keys rotate';
COMMENT ON COLUMN federation.homeserver_keys.public_key IS 'Ed25519 public key (32 bytes). Never changes';
COMMENT ON COLUMN federation.homeserver_keys.domain IS 'Domain that the key signs for, and no other. Never changes';
COMMENT ON COLUMN federation.homeserver_keys.pinned IS 'Day (UTC) on which the key was first known. Never changes';
COMMENT ON COLUMN federation.homeserver_keys.distrusted IS
    'Day (UTC) on which the operator distrusted the key; null: it is trusted. The row stays, so that the key is not pinned again. Changes as the operator likes';

COMMENT ON COLUMN federation.homeserver_keys.not_before IS
    'Time from which the key signs, in seconds since 1970; null: the operator pinned it, and no description has named it. Changes with the description';
COMMENT ON COLUMN federation.homeserver_keys.not_after IS
    'Time until which the key signs, in seconds since 1970; null, as with not_before: it has no end. Changes with the description';

CREATE FUNCTION federation.refuse_home_domain() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Without a home domain nobody can say that this is another one.
    IF NOT EXISTS (SELECT FROM operator.settings s WHERE s.home_domain <> NEW.domain) THEN
        RAISE EXCEPTION 'keys are pinned of other domains than the home domain, once that is set'
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION federation.refuse_home_domain IS
    'Trigger of the tables of other homeservers: a pinned key of the home domain would make its holder this homeserver';

CREATE TRIGGER home_domain_is_not_pinned BEFORE INSERT OR UPDATE ON federation.homeserver_keys
    FOR EACH ROW EXECUTE FUNCTION federation.refuse_home_domain();

CREATE FUNCTION federation.refuse_other_domain() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'a homeserver key stays with its domain' USING ERRCODE = 'object_not_in_prerequisite_state';
END
$$;
COMMENT ON FUNCTION federation.refuse_other_domain IS
    'Trigger of federation.homeserver_keys: a key that changed its domain would take the other one''s allowance';

CREATE TRIGGER key_stays_with_its_domain BEFORE UPDATE ON federation.homeserver_keys
    FOR EACH ROW WHEN (OLD.domain <> NEW.domain OR OLD.public_key <> NEW.public_key)
    EXECUTE FUNCTION federation.refuse_other_domain();

CREATE TABLE federation.settings (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    mode text NOT NULL DEFAULT 'open' CHECK (mode IN ('open', 'allow_list')),
    gateway_key_days integer NOT NULL DEFAULT 30 CHECK (gateway_key_days BETWEEN 2 AND 365),
    gateway_overlap_days integer NOT NULL DEFAULT 7 CHECK (gateway_overlap_days BETWEEN 1 AND 180),
    description_minutes integer NOT NULL DEFAULT 60 CHECK (description_minutes BETWEEN 1 AND 1440),
    description_changes integer NOT NULL DEFAULT 3 CHECK (description_changes BETWEEN 1 AND 1000),
    max_homeservers integer NOT NULL DEFAULT 10000 CHECK (max_homeservers BETWEEN 1 AND 1000000),
    introductions_per_source integer NOT NULL DEFAULT 20 CHECK (introductions_per_source >= 0),
    introductions_per_hour integer NOT NULL DEFAULT 1000 CHECK (introductions_per_hour >= 0),
    network_factor integer NOT NULL DEFAULT 4 CHECK (network_factor BETWEEN 1 AND 256),
    new_sources_percent integer NOT NULL DEFAULT 50 CHECK (new_sources_percent BETWEEN 0 AND 100),
    outbox_mib integer NOT NULL DEFAULT 1024 CHECK (outbox_mib BETWEEN 1 AND 1048576),
    outbox_total_mib integer NOT NULL DEFAULT 8192 CHECK (outbox_total_mib BETWEEN 1 AND 16777216),
    outbox_reserve_percent integer NOT NULL DEFAULT 25 CHECK (outbox_reserve_percent BETWEEN 0 AND 90),
    max_strangers integer NOT NULL DEFAULT 1000 CHECK (max_strangers BETWEEN 0 AND 1000000),
    outbox_days integer NOT NULL DEFAULT 14 CHECK (outbox_days BETWEEN 1 AND 365),
    retry_seconds integer NOT NULL DEFAULT 300 CHECK (retry_seconds BETWEEN 1 AND 86400),
    refused_attempts integer NOT NULL DEFAULT 10 CHECK (refused_attempts BETWEEN 1 AND 100),
    wallet_tokens integer NOT NULL DEFAULT 100 CHECK (wallet_tokens IN (10, 100)),
    refill_seconds integer NOT NULL DEFAULT 86400 CHECK (refill_seconds BETWEEN 60 AND 2678400),
    gone_days integer NOT NULL DEFAULT 30 CHECK (gone_days BETWEEN 1 AND 365),
    gone_after_days integer NOT NULL DEFAULT 1 CHECK (gone_after_days BETWEEN 0 AND 7),
    relayed_tokens integer NOT NULL DEFAULT 1 CHECK (relayed_tokens BETWEEN 1 AND 100),
    relays_for_others integer NOT NULL DEFAULT 1 CHECK (relays_for_others IN (0, 1)),
    CONSTRAINT settings_overlap CHECK (gateway_key_days >= 2 * gateway_overlap_days)
);
COMMENT ON TABLE federation.settings IS 'Settings of federation: one row';
COMMENT ON COLUMN federation.settings.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN federation.settings.mode IS
    'Domains that this server deals with (FED-2). open: all but those that are blocked. allow_list: those that are allowed only. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.gateway_key_days IS
    'Days for which a key of the gateway is valid. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.gateway_overlap_days IS
    'The last of these days, in which the gateway takes requests for the key and its successor. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.description_minutes IS
    'Minutes after which the description of another homeserver is fetched again, when it is needed; after one where that one does not answer, or takes no deliveries. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.description_changes IS
    'Times in a day (UTC) that people here are shown another description of a homeserver, since the one before does not serve any more. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.max_homeservers IS
    'Homeservers whose descriptions are kept at a time; another one takes the place of one that never took a delivery. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.introductions_per_source IS
    'Looks in an hour at homeservers that nobody here knows and that introduce themselves, from one network address (IPv6: /64). Changes as the operator likes';
COMMENT ON COLUMN federation.settings.introductions_per_hour IS
    'Such looks in an hour in all. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.network_factor IS
    'Times as many that come from a network as from the next narrower one. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.new_sources_percent IS
    'Percent of introductions_per_hour that are left to networks from which none came in the hour. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.outbox_mib IS
    'MiB of sealed deliveries that wait for one domain, or were set aside, at most, and never more than it leaves to the next one; beyond them, its addresses are undelivered (FED-4). A family of names of which none takes what it gets counts as one domain. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.outbox_total_mib IS
    'MiB of sealed deliveries that wait for all domains together, or were set aside, at most (FED-4). Changes as the operator likes';
COMMENT ON COLUMN federation.settings.outbox_reserve_percent IS
    'Percent of outbox_total_mib that are left to domains that take what they get. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.max_strangers IS
    'Domains that never took a delivery and for which some wait, at most, an eighth of them of one family of names: anybody can name domains. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.outbox_days IS
    'Whole days (UTC) that a delivery to another domain waits; then it is set aside. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.retry_seconds IS
    'Seconds between two attempts at a domain that does not answer, at most, and between two looks at a neighbour that is asked for. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.refused_attempts IS
    'Attempts at a delivery that its homeserver refuses, while it answers others, until the delivery is set aside; one that is refused for its size is, at the first one. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.wallet_tokens IS
    'Tokens of another domain that are asked for at a time, once there are less than half as many: 10 or 100. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.refill_seconds IS
    'Seconds for which another domain''s issuer is not asked for tokens that says it gives none, at most, whatever time it says. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.gone_days IS
    'Whole days (UTC) for which an address that is gone is kept for its group''s next request. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.gone_after_days IS
    'Days after the first report that an address is gone until another one has its member removed; 0: the first one does. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.relayed_tokens IS
    'Tokens of another homeserver that somebody gets for one token of this one, at most. With more than one, a chain of homeservers makes many of few. Changes as the operator likes';
COMMENT ON COLUMN federation.settings.relays_for_others IS
    '1: this homeserver says that people of other domains may hide from their own one behind it; 0: that they may not, which their clients keep to. Changes as the operator likes';
INSERT INTO federation.settings DEFAULT VALUES;

CREATE TABLE federation.rules (
    domain operator.domain_name PRIMARY KEY,
    rule text NOT NULL CHECK (rule IN ('allowed', 'blocked')),
    with_below boolean NOT NULL DEFAULT false CHECK (rule = 'blocked' OR NOT with_below),
    since date NOT NULL
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
CREATE INDEX rules_with_below ON federation.rules (domain) WHERE with_below;
COMMENT ON TABLE federation.rules IS
    'Domains that the operator allowed or blocked (FED-2). Each statement reads them anew: a change holds at once';
COMMENT ON COLUMN federation.rules.domain IS 'Domain. Never changes';
COMMENT ON COLUMN federation.rules.rule IS 'allowed or blocked, whatever the mode is. Changes as the operator likes';
COMMENT ON COLUMN federation.rules.with_below IS
    'Whether domains below it are blocked as well, but for those that have rules of their own. Changes as the operator likes';
COMMENT ON COLUMN federation.rules.since IS 'Day (UTC) of the last change. Changes with the rule';
CREATE TRIGGER home_domain_has_no_rule BEFORE INSERT OR UPDATE ON federation.rules
    FOR EACH ROW EXECUTE FUNCTION federation.refuse_home_domain();

CREATE TABLE federation.homeservers (
    domain operator.domain_name PRIMARY KEY,
    description bytea NOT NULL CHECK (octet_length(description) <= 262144),
    content bytea NOT NULL CHECK (octet_length(content) = 32),
    base_url text NOT NULL,
    issued bigint NOT NULL,
    expires bigint NOT NULL,
    seen date NOT NULL
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE federation.homeservers IS
    'Descriptions of homeservers of other domains, as they were fetched and verified last (FED-1). A row goes when nobody needed it for a month; the keys that were pinned stay, if deliveries went or came';
COMMENT ON COLUMN federation.homeservers.domain IS 'Domain. Never changes';
COMMENT ON COLUMN federation.homeservers.description IS
    'The description, byte for byte (protocol/src/federation/description.rs). Changes with each look';
COMMENT ON COLUMN federation.homeservers.content IS
    'Digest of what the description says, without its times. Changes with it';
COMMENT ON COLUMN federation.homeservers.base_url IS 'URL of the homeserver, as its description says. Changes with it';
COMMENT ON COLUMN federation.homeservers.issued IS
    'Time of the description, by its homeserver''s clock, in seconds since 1970. Grows, but after a clock was ahead';
COMMENT ON COLUMN federation.homeservers.expires IS
    'Time until which the description holds, in seconds since 1970. Changes with it';
COMMENT ON COLUMN federation.homeservers.seen IS 'Day (UTC) of the last look. Changes with it';
CREATE TRIGGER home_domain_is_no_other BEFORE INSERT OR UPDATE ON federation.homeservers
    FOR EACH ROW EXECUTE FUNCTION federation.refuse_home_domain();

-- Unlogged: its times are exact, and worth nothing after a crash.
CREATE UNLOGGED TABLE federation.looks (
    domain operator.domain_name PRIMARY KEY,
    looked timestamptz NOT NULL,
    failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0)
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE federation.looks IS
    'Last looks at the descriptions of other homeservers, within hours: all processes together do not look more often than they have to';
COMMENT ON COLUMN federation.looks.domain IS 'Domain. Never changes';
COMMENT ON COLUMN federation.looks.looked IS 'Time of the last look. Grows';
COMMENT ON COLUMN federation.looks.failures IS 'Looks in a row that failed. Grows, and is 0 after one that did not';

-- Unlogged, as the looks are: after a crash the choice of the day is made once more.
CREATE UNLOGGED TABLE federation.shown (
    domain operator.domain_name PRIMARY KEY,
    day date NOT NULL,
    description bytea NOT NULL,
    content bytea NOT NULL CHECK (octet_length(content) = 32),
    issued bigint NOT NULL,
    expires bigint NOT NULL,
    changes integer NOT NULL DEFAULT 0 CHECK (changes >= 0)
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE federation.shown IS
    'Descriptions of other homeservers that people here are shown: all of them the same on one day, so that no key is made for one of them. A row goes after its day';
COMMENT ON COLUMN federation.shown.domain IS 'Domain. Never changes';
COMMENT ON COLUMN federation.shown.day IS 'Day (UTC) on which it is shown. Grows';
COMMENT ON COLUMN federation.shown.description IS 'The description, byte for byte. Changes with the day';
COMMENT ON COLUMN federation.shown.content IS 'Digest of what it says, without its times. Changes with it';
COMMENT ON COLUMN federation.shown.issued IS
    'Time of the description, by its homeserver''s clock, in seconds since 1970. Changes with it';
COMMENT ON COLUMN federation.shown.expires IS 'Time until which it holds, in seconds since 1970. Changes with it';
COMMENT ON COLUMN federation.shown.changes IS
    'How often it was another one on this day. Grows, and is 0 with a new day';

CREATE TABLE federation.gateway_keys (
    public_key bytea PRIMARY KEY CHECK (octet_length(public_key) = 32),
    key_id smallint NOT NULL UNIQUE CHECK (key_id BETWEEN 0 AND 255),
    sealed_seed bytea NOT NULL,
    not_after date NOT NULL
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE federation.gateway_keys IS
    'Keys of the gateway (RFC 9458): the one that is valid for longest is the one to use. A row goes when its validity is over';
COMMENT ON COLUMN federation.gateway_keys.public_key IS 'X25519 public key (32 bytes). Never changes';
COMMENT ON COLUMN federation.gateway_keys.key_id IS 'Number by which a request names the key. Never changes';
COMMENT ON COLUMN federation.gateway_keys.sealed_seed IS
    '32 random bytes from which the key pair is derived (RFC 9180 §7.1.3), sealed under the server''s master key. The bytes never change; the seal does with the master key';
COMMENT ON COLUMN federation.gateway_keys.not_after IS
    'Last day (UTC) of validity. Comes nearer when the operator rotates keys';
CREATE TRIGGER gateway_keys_are_sealed BEFORE INSERT OR UPDATE OF sealed_seed ON federation.gateway_keys
    FOR EACH ROW EXECUTE FUNCTION operator.check_seal('sealed_seed', 'gateway key', 'public_key');
-- Server processes keep the keys in memory.
CREATE TRIGGER gateway_keys_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON federation.gateway_keys
    FOR EACH STATEMENT EXECUTE FUNCTION operator.raise_key_version();
ALTER TABLE federation.gateway_keys
    ENABLE ALWAYS TRIGGER gateway_keys_are_sealed, ENABLE ALWAYS TRIGGER gateway_keys_changed;

-- Deliveries to other domains wait in lanes. A group has one lane at each domain, so its deliveries stay in order. The
-- transaction that accepts a message locks the row of the lane after the group's and those of queues, in the order of
-- domains: numbers become visible in their order, without a gap.
CREATE TABLE federation.outgoing_lanes (
    domain operator.domain_name,
    lane smallint CHECK (lane BETWEEN 0 AND 15),
    instance bytea NOT NULL CHECK (octet_length(instance) = 16),
    instance_start bigint NOT NULL DEFAULT 0 CHECK (instance_start >= 0),
    next_number bigint NOT NULL DEFAULT 1 CHECK (next_number > instance_start),
    settled_id bytea CHECK (octet_length(settled_id) = 16),
    waiting integer NOT NULL DEFAULT 0 CHECK (waiting >= 0),
    waiting_bytes bigint NOT NULL DEFAULT 0 CHECK (waiting_bytes >= 0),
    aside_bytes bigint NOT NULL DEFAULT 0 CHECK (aside_bytes >= 0),
    is_stranger boolean NOT NULL,
    last_used date NOT NULL,
    renewed date,
    PRIMARY KEY (domain, lane)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 0);
CREATE INDEX outgoing_lanes_strangers ON federation.outgoing_lanes (domain) WHERE is_stranger;
COMMENT ON TABLE federation.outgoing_lanes IS
    'Lanes in which deliveries to other domains wait, and their numbers (FED-4). A row goes when it was not used for 60 days';
COMMENT ON COLUMN federation.outgoing_lanes.domain IS 'Domain that the deliveries are for. Never changes';
COMMENT ON COLUMN federation.outgoing_lanes.lane IS
    'Lane: a keyed digest of the group id, modulo 16. Never changes';
COMMENT ON COLUMN federation.outgoing_lanes.instance IS
    'Random id (16 bytes) by which the other homeserver knows the numbering. Changes when it begins anew, because one of the two databases was restored, or deliveries left before they were taken';
COMMENT ON COLUMN federation.outgoing_lanes.instance_start IS
    'Number before the first one of this instance: the other homeserver is told numbers less this one. Changes with instance';
COMMENT ON COLUMN federation.outgoing_lanes.next_number IS 'Number of the next delivery. Grows';
COMMENT ON COLUMN federation.outgoing_lanes.settled_id IS
    'Id of the last delivery that the other homeserver took in this instance, or of the empty one that went in its place; null: none. Changes with each';
COMMENT ON COLUMN federation.outgoing_lanes.waiting IS 'Number of deliveries that wait. Changes';
COMMENT ON COLUMN federation.outgoing_lanes.waiting_bytes IS 'Bytes of the deliveries that wait, sealed. Changes';
COMMENT ON COLUMN federation.outgoing_lanes.aside_bytes IS 'Bytes of the deliveries that were set aside, sealed. Changes';
COMMENT ON COLUMN federation.outgoing_lanes.is_stranger IS
    'Whether the domain had taken no delivery yet: a marker for the index by which strangers are counted; federation.neighbours says which those are. Changes once it took one';
COMMENT ON COLUMN federation.outgoing_lanes.last_used IS 'Day (UTC) of the last delivery that was put in. Grows';
COMMENT ON COLUMN federation.outgoing_lanes.renewed IS
    'Day (UTC) on which the numbering began anew last; null: never. Grows';
CREATE TRIGGER home_domain_has_no_lane BEFORE INSERT ON federation.outgoing_lanes
    FOR EACH ROW EXECUTE FUNCTION federation.refuse_home_domain();

-- By domain, since on a small server a lane is one group.
CREATE TABLE federation.neighbours (
    domain operator.domain_name PRIMARY KEY,
    first_success date NOT NULL,
    last_success date NOT NULL CHECK (last_success >= first_success)
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE federation.neighbours IS
    'Homeservers that took deliveries of this server. A row goes when none was taken for 60 days, and no lane is left';
COMMENT ON COLUMN federation.neighbours.domain IS 'Domain. Never changes';
COMMENT ON COLUMN federation.neighbours.first_success IS
    'Day (UTC) on which it took a delivery for the first time. Never changes';
COMMENT ON COLUMN federation.neighbours.last_success IS 'Day (UTC) on which it took deliveries last. Grows';

CREATE TABLE federation.outbox (
    id bytea PRIMARY KEY CHECK (octet_length(id) = 16),
    domain operator.domain_name NOT NULL,
    lane smallint NOT NULL,
    number bigint NOT NULL CHECK (number > 0),
    sealed bytea NOT NULL,
    day date NOT NULL,
    retried smallint NOT NULL DEFAULT 0 CHECK (retried >= 0),
    reason text CHECK (octet_length(reason) <= 200),
    UNIQUE (domain, lane, number)
) WITH (
    -- All that is inserted is deleted soon, so dead rows tell when to vacuum, not inserts.
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_vacuum_threshold = 0,
    autovacuum_vacuum_scale_factor = 0.05,
    toast.autovacuum_vacuum_insert_threshold = -1,
    toast.autovacuum_vacuum_threshold = 0,
    toast.autovacuum_vacuum_scale_factor = 0.05
);
-- Sealed bytes do not compress.
ALTER TABLE federation.outbox ALTER sealed SET STORAGE EXTERNAL;
COMMENT ON TABLE federation.outbox IS
    'Deliveries that wait for the homeservers of other domains (FED-4): one row for each accepted message and domain. No foreign key: each transaction that adds or deletes one has locked the row of federation.outgoing_lanes';
COMMENT ON COLUMN federation.outbox.id IS 'Random id (16 bytes). Never changes';
COMMENT ON COLUMN federation.outbox.domain IS 'Domain that the delivery is for. Never changes';
COMMENT ON COLUMN federation.outbox.lane IS 'Lane. Never changes';
COMMENT ON COLUMN federation.outbox.number IS 'Number in the lane, from 1. Never changes';
COMMENT ON COLUMN federation.outbox.sealed IS
    'Addresses and payloads, padded to a size class (1, 4, 16, 64, 256 KiB, then whole MiB) and sealed under the server''s master key. The content never changes; the seal does with the master key';
COMMENT ON COLUMN federation.outbox.day IS 'Day (UTC) on which it was accepted. Never changes';
COMMENT ON COLUMN federation.outbox.retried IS
    'How often it was set aside as refused, and put in again by a server: such a one is refused once. Never changes';
COMMENT ON COLUMN federation.outbox.reason IS
    'Reason for which it was set aside before a server put it in again, which a connection that breaks does not change; null: no server did. Never changes';
CREATE TRIGGER outbox_is_sealed BEFORE INSERT OR UPDATE OF sealed ON federation.outbox
    FOR EACH ROW EXECUTE FUNCTION operator.check_seal('sealed', 'outbox', 'id');
ALTER TABLE federation.outbox ENABLE ALWAYS TRIGGER outbox_is_sealed;

-- Transactions at the same time count in rows of their own, so that none waits for another one.
CREATE TABLE federation.outbox_bytes (
    family text,
    part uuid,
    bytes bigint NOT NULL,
    PRIMARY KEY (family, part)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 0);
COMMENT ON TABLE federation.outbox_bytes IS
    'Bytes of the deliveries that wait for other domains, or were set aside, by families of names: the sum of the rows, of which there are as many as transactions counted at the same time. They are put together hourly';
COMMENT ON COLUMN federation.outbox_bytes.family IS 'Family of names of the domains (federation.family). Never changes';
COMMENT ON COLUMN federation.outbox_bytes.part IS 'Random id. Never changes';
COMMENT ON COLUMN federation.outbox_bytes.bytes IS 'Bytes, sealed; below 0 in a row that counted more that left than came. Changes';

-- A row keeps the id of the delivery that it was in the outbox, under which its content is sealed.
CREATE TABLE federation.set_aside (
    id bytea PRIMARY KEY CHECK (octet_length(id) = 16),
    domain operator.domain_name NOT NULL,
    lane smallint NOT NULL,
    number bigint NOT NULL,
    sealed bytea NOT NULL,
    reason text NOT NULL CHECK (octet_length(reason) <= 200),
    day date NOT NULL,
    retried smallint NOT NULL DEFAULT 0 CHECK (retried >= 0)
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
ALTER TABLE federation.set_aside ALTER sealed SET STORAGE EXTERNAL;
CREATE INDEX set_aside_domain ON federation.set_aside (domain, lane, number);
CREATE INDEX set_aside_day ON federation.set_aside (day);
COMMENT ON TABLE federation.set_aside IS
    'Deliveries that were not taken, and hold up no others: their homeserver refused them, or they waited for too long. A row goes with outbox_days, or as the operator likes';
COMMENT ON COLUMN federation.set_aside.id IS 'Random id (16 bytes). Never changes';
COMMENT ON COLUMN federation.set_aside.domain IS 'Domain that the delivery is for. Never changes';
COMMENT ON COLUMN federation.set_aside.lane IS 'Lane that it was in. Never changes';
COMMENT ON COLUMN federation.set_aside.number IS
    'Number that it had in the lane: when they are tried again, they go in this order. Never changes';
COMMENT ON COLUMN federation.set_aside.sealed IS
    'Addresses and payloads, as in federation.outbox. The content never changes; the seal does with the master key';
COMMENT ON COLUMN federation.set_aside.reason IS 'Reason, in words of this server. Never changes';
COMMENT ON COLUMN federation.set_aside.day IS 'Day (UTC) on which it was set aside. Never changes';
COMMENT ON COLUMN federation.set_aside.retried IS 'As in federation.outbox. Never changes';
CREATE TRIGGER set_aside_is_sealed BEFORE INSERT OR UPDATE OF sealed ON federation.set_aside
    FOR EACH ROW EXECUTE FUNCTION operator.check_seal('sealed', 'outbox', 'id');
ALTER TABLE federation.set_aside ENABLE ALWAYS TRIGGER set_aside_is_sealed;

-- Unlogged: its times are exact, and worth nothing after a crash, after which servers find the lanes anew.
CREATE UNLOGGED TABLE federation.due (
    domain operator.domain_name,
    lane smallint,
    family text COLLATE "C" NOT NULL,
    standing text NOT NULL CHECK (standing IN ('prompt', 'good', 'slow', 'failing', 'stranger', 'refused')),
    due timestamptz NOT NULL,
    holder bytea CHECK (octet_length(holder) = 16),
    refusals integer NOT NULL DEFAULT 0 CHECK (refusals >= 0),
    apart_to bigint NOT NULL DEFAULT 0 CHECK (apart_to >= 0),
    breaks integer NOT NULL DEFAULT 0 CHECK (breaks >= 0),
    broken_since timestamptz CHECK ((broken_since IS NOT NULL) = (breaks > 0)),
    PRIMARY KEY (domain, lane)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 0);
CREATE INDEX due_first ON federation.due (standing, due);
CREATE INDEX due_next ON federation.due (standing, family, due);
CREATE INDEX due_holder ON federation.due (holder) WHERE holder IS NOT NULL;
COMMENT ON TABLE federation.due IS
    'Lanes in which something waits, and when each is tried next: a server process that delivers one puts that time ahead. Two at once would be harmless: the other homeserver knows a repeat';
COMMENT ON COLUMN federation.due.domain IS 'Domain of the lane. Never changes';
COMMENT ON COLUMN federation.due.lane IS 'Lane. Never changes';
COMMENT ON COLUMN federation.due.family IS
    'Family of names of the domain, or itself if the operator allowed it: families take turns (federation.share). Changes with the rule';
COMMENT ON COLUMN federation.due.standing IS
    'Standing of the domain: each kind has attempts of its own, so that none keeps out another. prompt: it took some within minutes, and took no time. good: it takes deliveries. slow: it does, and takes long. failing: the last attempt failed. stranger: it never took one. refused: this server does not deal with it. Changes';
COMMENT ON COLUMN federation.due.due IS
    'Time from which the lane is tried, unless somebody holds it until then: the second in which something came, and a time of attempts from the first one on. Changes';
COMMENT ON COLUMN federation.due.holder IS
    'Random id (16 bytes) of the attempt that has the lane; null: none. Changes with each';
COMMENT ON COLUMN federation.due.refusals IS
    'Attempts at the first delivery alone that its homeserver refused while it answered others. Grows, and is 0 once it took that one';
COMMENT ON COLUMN federation.due.apart_to IS
    'Number of the last delivery that goes on a connection of its own, with those before it: one broke under them, or under others that were on it; 0: none did. Grows';
COMMENT ON COLUMN federation.due.breaks IS
    'Attempts at the first delivery alone under which its own connection broke, while its homeserver answered others. Grows, and is 0 once it took that one, and after an attempt at the lane that failed';
COMMENT ON COLUMN federation.due.broken_since IS 'Time of the first of these; null: there was none. Changes with breaks';

CREATE UNLOGGED TABLE federation.attempts (
    domain operator.domain_name PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('failing', 'slow', 'out_of_tokens')),
    reason text NOT NULL CHECK (octet_length(reason) <= 200),
    failures integer NOT NULL CHECK (failures >= 0),
    next_try timestamptz NOT NULL,
    is_heard boolean NOT NULL DEFAULT false
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE federation.attempts IS
    'Domains whose homeserver takes no deliveries at present, or takes long. A row goes when it takes them again, and promptly';
COMMENT ON COLUMN federation.attempts.domain IS 'Domain. Never changes';
COMMENT ON COLUMN federation.attempts.state IS
    'failing: it does not answer, or not as it should. slow: it takes long. out_of_tokens: its issuer gives this domain no more tokens at present. Changes';
COMMENT ON COLUMN federation.attempts.reason IS 'Reason why the last attempt failed, in words of this server. Changes with each';
COMMENT ON COLUMN federation.attempts.failures IS
    'Attempts in a row that failed, by which the pause grows. Grows, and is 0 again when the homeserver is heard from (federation.heard)';
COMMENT ON COLUMN federation.attempts.next_try IS 'Time of the next attempt. Changes with each, and when the homeserver is heard from';
COMMENT ON COLUMN federation.attempts.is_heard IS
    'Whether the homeserver was heard from since the row is there: from then on, failures is 0 again only after several. Changes once, and back when the homeserver takes long';

-- Unlogged, as the attempts are.
CREATE UNLOGGED TABLE federation.prompt_homeservers (
    domain operator.domain_name PRIMARY KEY,
    noted timestamptz NOT NULL
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE federation.prompt_homeservers IS
    'Domains that took their last deliveries without taking long: those that turn silent keep them from nothing. A row goes with the first attempt that fails or takes long, and after minutes counts no more';
COMMENT ON COLUMN federation.prompt_homeservers.domain IS 'Domain. Never changes';
COMMENT ON COLUMN federation.prompt_homeservers.noted IS 'Time of such a delivery, to the minute. Grows';

CREATE FUNCTION federation.reconsider_lanes() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Rows that others have at this moment follow within a minute (federation.find_due).
    UPDATE federation.due d
       SET family = federation.share(d.domain),
           standing = CASE d.standing WHEN 'refused' THEN federation.standing(d.domain) ELSE d.standing END
     WHERE (d.domain, d.lane) IN (
           SELECT o.domain, o.lane
             FROM federation.due o
            WHERE o.standing = 'refused' OR o.family <> federation.share(o.domain)
              FOR UPDATE SKIP LOCKED);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION federation.reconsider_lanes IS
    'Trigger of federation.rules and federation.settings: what waits for a domain that the operator allows goes on at once';
CREATE TRIGGER rules_reconsider_lanes AFTER INSERT OR UPDATE OR DELETE ON federation.rules
    FOR EACH STATEMENT EXECUTE FUNCTION federation.reconsider_lanes();
CREATE TRIGGER mode_reconsiders_lanes AFTER UPDATE OF mode ON federation.settings
    FOR EACH STATEMENT EXECUTE FUNCTION federation.reconsider_lanes();

CREATE TABLE federation.tokens (
    id bytea PRIMARY KEY CHECK (octet_length(id) = 16),
    domain operator.domain_name NOT NULL,
    issuer_key_id bytea NOT NULL CHECK (octet_length(issuer_key_id) = 32),
    sealed bytea NOT NULL,
    day date NOT NULL
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
CREATE INDEX tokens_domain ON federation.tokens (domain);
COMMENT ON TABLE federation.tokens IS
    'Tokens of other domains'' issuers, with which deliveries are paid (FED-3). A row goes before its token is sent';
COMMENT ON COLUMN federation.tokens.id IS 'Random id (16 bytes). Never changes';
COMMENT ON COLUMN federation.tokens.domain IS 'Domain whose issuer made it. Never changes';
COMMENT ON COLUMN federation.tokens.issuer_key_id IS 'Id of the issuer''s key (RFC 9577 §2.2). Never changes';
COMMENT ON COLUMN federation.tokens.sealed IS
    'Token, sealed under the server''s master key. The token never changes; the seal does with the master key';
COMMENT ON COLUMN federation.tokens.day IS 'Day (UTC) on which it was got. Never changes';
CREATE TRIGGER tokens_are_sealed BEFORE INSERT OR UPDATE OF sealed ON federation.tokens
    FOR EACH ROW EXECUTE FUNCTION operator.check_seal('sealed', 'token', 'id');
ALTER TABLE federation.tokens ENABLE ALWAYS TRIGGER tokens_are_sealed;

-- Unlogged, as the attempts are.
CREATE UNLOGGED TABLE federation.refills (
    domain operator.domain_name PRIMARY KEY,
    asked timestamptz NOT NULL,
    seconds integer NOT NULL CHECK (seconds >= 0)
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE federation.refills IS
    'Domains whose issuer was asked for tokens: one process does at a time, and none before the time that the issuer said';
COMMENT ON COLUMN federation.refills.domain IS 'Domain. Never changes';
COMMENT ON COLUMN federation.refills.asked IS 'Time of the last request. Changes with each';
COMMENT ON COLUMN federation.refills.seconds IS 'Seconds from then in which nobody asks it again. Changes with each request, and with its answer';

CREATE TABLE federation.gone (
    group_digest bytea CHECK (octet_length(group_digest) = 32),
    address_digest bytea CHECK (octet_length(address_digest) = 32),
    day date NOT NULL,
    last_day date NOT NULL CHECK (last_day >= day),
    PRIMARY KEY (group_digest, address_digest)
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
CREATE INDEX gone_last_day ON federation.gone (last_day);
COMMENT ON TABLE federation.gone IS
    'Addresses at other domains that are gone: they wait for the group''s next request, with whose state key the DS proposes the removal (DS-10)';
COMMENT ON COLUMN federation.gone.group_digest IS
    'HMAC of the group id under a key of the server that is not in the database (32 bytes). Never changes';
COMMENT ON COLUMN federation.gone.address_digest IS 'HMAC of the address, likewise (32 bytes). Never changes';
COMMENT ON COLUMN federation.gone.day IS
    'Day (UTC) on which the other homeserver said so first. Changes if it had not for more than a week';
COMMENT ON COLUMN federation.gone.last_day IS 'Day (UTC) on which it said so last. Grows';

CREATE TABLE federation.incoming_lanes (
    domain operator.domain_name,
    lane smallint CHECK (lane BETWEEN 0 AND 15),
    instance bytea NOT NULL CHECK (octet_length(instance) = 16),
    past_instances bytea[] NOT NULL DEFAULT '{}' CHECK (cardinality(past_instances) <= 8),
    last_number bigint NOT NULL CHECK (last_number >= 0),
    last_id bytea CHECK (octet_length(last_id) = 16),
    last_used date NOT NULL,
    PRIMARY KEY (domain, lane)
) WITH (fillfactor = 20, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 0);
COMMENT ON TABLE federation.incoming_lanes IS
    'Lanes in which other domains'' deliveries come. The transaction that takes deliveries moves the number on: a repeat changes nothing (FED-4). A row goes when it was not used for 120 days';
COMMENT ON COLUMN federation.incoming_lanes.domain IS 'Domain that delivers. Never changes';
COMMENT ON COLUMN federation.incoming_lanes.lane IS 'Lane, as that domain numbers its lanes. Never changes';
COMMENT ON COLUMN federation.incoming_lanes.instance IS
    'Id of the numbering (16 bytes), chosen by that domain. Changes when it begins anew';
COMMENT ON COLUMN federation.incoming_lanes.past_instances IS
    'Ids of the numberings before, up to eight, the last one first, of which a late request counts no more. Changes with instance';
COMMENT ON COLUMN federation.incoming_lanes.last_number IS
    'Number of the last delivery that was taken; 0: none. Grows, and begins anew with instance';
COMMENT ON COLUMN federation.incoming_lanes.last_id IS
    'Id of that delivery (16 bytes), by which a number that was given twice is noticed; null: none. Changes with it';
COMMENT ON COLUMN federation.incoming_lanes.last_used IS 'Day (UTC) of the last delivery. Grows';
CREATE TRIGGER home_domain_has_no_incoming_lane BEFORE INSERT ON federation.incoming_lanes
    FOR EACH ROW EXECUTE FUNCTION federation.refuse_home_domain();

-- Outcomes of API functions, success first.
CREATE TYPE federation.add_gateway_key_outcome AS ENUM ('added', 'not_due', 'collides');
COMMENT ON TYPE federation.add_gateway_key_outcome IS 'Outcomes of federation.add_gateway_key';
CREATE TYPE federation.find_homeserver_outcome AS ENUM ('kept', 'due', 'failing', 'blocked', 'too_many');
COMMENT ON TYPE federation.find_homeserver_outcome IS 'Outcomes of federation.find_homeserver';
CREATE TYPE federation.relay_request_outcome AS ENUM ('kept', 'token_spent', 'due', 'failing', 'blocked', 'too_many');
COMMENT ON TYPE federation.relay_request_outcome IS 'Outcomes of federation.relay_request';
CREATE TYPE federation.relay_token_request_outcome AS ENUM (
    'kept', 'token_spent', 'due', 'failing', 'blocked', 'too_many', 'too_many_tokens');
COMMENT ON TYPE federation.relay_token_request_outcome IS 'Outcomes of federation.relay_token_request';
CREATE TYPE federation.introduce_server_outcome AS ENUM (
    'known', 'unknown', 'blocked', 'signature_used', 'source_limited', 'server_limited');
COMMENT ON TYPE federation.introduce_server_outcome IS 'Outcomes of federation.introduce_server';
CREATE TYPE federation.find_sender_outcome AS ENUM ('known', 'unknown_signer', 'blocked');
COMMENT ON TYPE federation.find_sender_outcome IS 'Outcomes of federation.find_sender';
CREATE TYPE federation.admit_relay_outcome AS ENUM ('admitted', 'unknown_signer', 'blocked', 'signature_used');
COMMENT ON TYPE federation.admit_relay_outcome IS 'Outcomes of federation.admit_relay';
CREATE TYPE federation.show_homeserver_outcome AS ENUM ('kept', 'token_spent', 'due', 'failing', 'blocked', 'too_many');
COMMENT ON TYPE federation.show_homeserver_outcome IS 'Outcomes of federation.show_homeserver';
CREATE TYPE federation.keep_homeserver_outcome AS ENUM ('kept', 'blocked', 'outdated', 'key_of_another');
COMMENT ON TYPE federation.keep_homeserver_outcome IS 'Outcomes of federation.keep_homeserver';
CREATE TYPE federation.claim_lane_outcome AS ENUM ('claimed', 'none');
COMMENT ON TYPE federation.claim_lane_outcome IS 'Outcomes of federation.claim_lane';
CREATE TYPE federation.settle_lane_outcome AS ENUM ('settled', 'outdated');
COMMENT ON TYPE federation.settle_lane_outcome IS 'Outcomes of federation.settle_lane';
CREATE TYPE federation.compare_lane_outcome AS ENUM ('settled', 'same', 'renewed', 'outdated');
COMMENT ON TYPE federation.compare_lane_outcome IS 'Outcomes of federation.compare_lane';
CREATE TYPE federation.take_token_outcome AS ENUM ('taken', 'none', 'blocked');
COMMENT ON TYPE federation.take_token_outcome IS 'Outcomes of federation.take_token';
CREATE TYPE federation.claim_refill_outcome AS ENUM ('claimed', 'not_due', 'blocked');
COMMENT ON TYPE federation.claim_refill_outcome IS 'Outcomes of federation.claim_refill';
