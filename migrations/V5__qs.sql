-- Queuing Service (QS): pseudonymous mailboxes, the addresses that lead to them, sealed messages, KeyPackages and push
-- subscriptions (QS-1 to QS-10). postern.deliver (pg_extension/) writes messages; chains are in PostgreSQL's shared
-- memory and in no table (QS-5). Nothing here refers to a group.
--
-- Ids are random, and no queue says when it was made: one client makes its contact queue and its group queue in the same
-- minute (PRIV-1, PRIV-4). last_active, which expiry needs, is the same day for all queues in use; those that their owner
-- gave up on one day share it until they expire.

-- Limits are a table and not configuration parameters, because policies are changed in SQL, take effect for every
-- session at once, and are part of a dump.
CREATE TABLE qs.settings (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    chain_messages integer NOT NULL DEFAULT 1000 CHECK (chain_messages BETWEEN 1 AND 1000000),
    chain_hours integer NOT NULL DEFAULT 24 CONSTRAINT chains_last_a_day CHECK (chain_hours BETWEEN 0 AND 24),
    group_queue_depth integer NOT NULL DEFAULT 10000 CHECK (group_queue_depth > 0),
    group_queue_kib integer NOT NULL DEFAULT 102400 CHECK (group_queue_kib > 0),
    contact_queue_depth integer NOT NULL DEFAULT 1000 CHECK (contact_queue_depth > 0),
    contact_queue_kib integer NOT NULL DEFAULT 8192 CHECK (contact_queue_kib > 0),
    handshake_reserve_percent integer NOT NULL DEFAULT 10 CHECK (handshake_reserve_percent BETWEEN 0 AND 100),
    address_share_percent integer NOT NULL DEFAULT 75 CHECK (address_share_percent BETWEEN 1 AND 100),
    deposits_per_day integer NOT NULL DEFAULT 200 CHECK (deposits_per_day > 0),
    deposit_refills integer NOT NULL DEFAULT 4 CHECK (deposit_refills BETWEEN 0 AND 1000),
    max_deposit_bytes integer NOT NULL DEFAULT 16384
        CONSTRAINT letters_of_clients_fit CHECK (max_deposit_bytes BETWEEN 16384 AND 45056),
    addresses_per_queue integer NOT NULL DEFAULT 10000 CHECK (addresses_per_queue > 0),
    last_resort_addresses_per_queue integer NOT NULL DEFAULT 16 CHECK (last_resort_addresses_per_queue >= 0),
    queue_days integer NOT NULL DEFAULT 90 CHECK (queue_days BETWEEN 1 AND 3650),
    address_days integer NOT NULL DEFAULT 450 CHECK (address_days BETWEEN 180 AND 3650),
    key_packages_per_stock integer NOT NULL DEFAULT 100
        CONSTRAINT requests_hold_a_stock CHECK (key_packages_per_stock BETWEEN 1 AND 200),
    stocks_per_friendship integer NOT NULL DEFAULT 32 CHECK (stocks_per_friendship > 0)
);
COMMENT ON TABLE qs.settings IS 'Limits of the QS: one row, read by every delivery';
COMMENT ON COLUMN qs.settings.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN qs.settings.chain_messages IS
    'Messages after which a queue gets a new chain (QS-5). Changes as the operator likes';
COMMENT ON COLUMN qs.settings.chain_hours IS
    'Hours after which a queue gets a new chain (QS-5); 0: with each delivery. Changes as the operator likes';
COMMENT ON CONSTRAINT chains_last_a_day ON qs.settings IS
    'A message may stay for as long as its chain is used, and KeyPackages outlast the messages that add them by a day for that';
COMMENT ON COLUMN qs.settings.group_queue_depth IS
    'Messages that a group queue holds at most. Changes as the operator likes';
COMMENT ON COLUMN qs.settings.group_queue_kib IS
    'KiB of sealed messages that a group queue holds at most. Changes as the operator likes';
COMMENT ON COLUMN qs.settings.contact_queue_depth IS
    'Messages that a contact queue holds at most. Changes as the operator likes';
COMMENT ON COLUMN qs.settings.contact_queue_kib IS
    'KiB of sealed messages that a contact queue holds at most. Changes as the operator likes';
COMMENT ON COLUMN qs.settings.handshake_reserve_percent IS
    'Part of its bounds that a group queue holds beyond them, of commits, proposals and Welcomes only (QS-11). Changes as the operator likes';
COMMENT ON COLUMN qs.settings.address_share_percent IS
    'Part of its bounds that a queue holds at most of what came to one of its addresses (QS-11). Changes as the operator likes';
COMMENT ON COLUMN qs.settings.deposits_per_day IS
    'Deposits that an address of a contact queue takes in a day (UTC) while its owner does not read them (QS-2). Changes as the operator likes';
COMMENT ON COLUMN qs.settings.deposit_refills IS
    'Times in a day (UTC) that an address takes deposits_per_day anew, because its owner read what came (QS-2). Changes as the operator likes';
COMMENT ON COLUMN qs.settings.max_deposit_bytes IS
    'Bytes of a deposit, as its depositor sent it, at most (QS-2). Changes as the operator likes';
COMMENT ON CONSTRAINT letters_of_clients_fit ON qs.settings IS
    'Clients send letters of up to 16384 bytes, and the body of a request has room for 45056';
COMMENT ON COLUMN qs.settings.addresses_per_queue IS
    'Addresses that a queue has at most. Changes as the operator likes';
COMMENT ON COLUMN qs.settings.last_resort_addresses_per_queue IS
    'Addresses that do not bind, of those that a queue has at most. Changes as the operator likes';
COMMENT ON COLUMN qs.settings.queue_days IS
    'Whole days (UTC) that a queue is kept without a request of its owner. Changes as the operator likes';
COMMENT ON COLUMN qs.settings.address_days IS
    'Whole days (UTC) that an address is kept at least, though neither its owner nor a delivery used it; 90 more than queue_days if that is more, so that none goes before its queue. Changes as the operator likes';
COMMENT ON COLUMN qs.settings.key_packages_per_stock IS
    'KeyPackages that a stock has at most, its last resort not counted. Changes as the operator likes';
COMMENT ON CONSTRAINT requests_hold_a_stock ON qs.settings IS
    'One request brings all KeyPackages of a stock, and holds 200 at most';
COMMENT ON COLUMN qs.settings.stocks_per_friendship IS
    'Stocks that a friendship has at most: one for each client and ciphersuite. Changes as the operator likes';
INSERT INTO qs.settings DEFAULT VALUES;
-- Backends keep the limits of deliveries in memory: any change, however it is made, tells them.
CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON qs.settings
    FOR EACH STATEMENT EXECUTE FUNCTION postern.forget();
ALTER TABLE qs.settings ENABLE ALWAYS TRIGGER settings_changed;

-- Types, and not the table, check the columns that deliveries write: PostgreSQL keeps the constraints of a domain, but
-- reads those of a table anew for each statement, which was 30 of a delivery's 120 microseconds.
CREATE DOMAIN qs.queue_id AS bytea CHECK (octet_length(VALUE) = 16);
COMMENT ON DOMAIN qs.queue_id IS 'Queue id: 16 random bytes';
CREATE DOMAIN qs.queue_kind AS text CHECK (VALUE IN ('contact', 'group'));
COMMENT ON DOMAIN qs.queue_kind IS
    'Kind of a queue. contact: anyone deposits. group: the DS of a group delivers to addresses that are bound to it';
CREATE DOMAIN qs.public_key AS bytea CHECK (octet_length(VALUE) = 32);
COMMENT ON DOMAIN qs.public_key IS 'Ed25519 or X25519 public key (32 bytes)';
CREATE DOMAIN qs.counter AS bigint CHECK (VALUE >= 0);
COMMENT ON DOMAIN qs.counter IS 'Number of messages, chains, addresses or bytes';
CREATE DOMAIN qs.chain_header AS bytea CHECK (octet_length(VALUE) = 80);
COMMENT ON DOMAIN qs.chain_header IS 'First key of a chain, sealed to the owner''s HPKE key (80 bytes; QS-5)';

-- Every delivery updates the row. A queue that fills up has shares, of 0.3 to 1.2 kB. At fillfactor 50 the new version nearly always finds room on its page, and no index
-- changes (HOT; measured 99.6 %).
CREATE TABLE qs.queues (
    queue_id qs.queue_id PRIMARY KEY,
    kind qs.queue_kind NOT NULL,
    owner_key qs.public_key NOT NULL,
    hpke_key qs.public_key NOT NULL,
    next_seq qs.counter NOT NULL DEFAULT 1,
    acked_seq qs.counter NOT NULL DEFAULT 0,
    expired_seq qs.counter NOT NULL DEFAULT 0,
    skipped qs.counter NOT NULL DEFAULT 0,
    last_chain qs.counter NOT NULL DEFAULT 0,
    address_count qs.counter NOT NULL DEFAULT 0,
    last_resort_count qs.counter NOT NULL DEFAULT 0,
    waiting_bytes qs.counter NOT NULL DEFAULT 0,
    last_marker qs.counter NOT NULL DEFAULT 0,
    shares bytea NOT NULL DEFAULT '',
    last_active date NOT NULL,
    CONSTRAINT queues_order CHECK (next_seq > acked_seq AND next_seq > expired_seq)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 0);
COMMENT ON TABLE qs.queues IS
    'Pseudonymous mailboxes (QS-1). A transaction that updates several rows locks them in the order of queue_id';
COMMENT ON COLUMN qs.queues.queue_id IS 'Queue id, chosen at random by the server. Never changes';
COMMENT ON COLUMN qs.queues.kind IS 'Kind of the queue. Never changes';
COMMENT ON COLUMN qs.queues.owner_key IS 'Ed25519 public key that signs the owner''s requests. Changes when the owner rotates it';
COMMENT ON COLUMN qs.queues.hpke_key IS 'X25519 public key that new chains are sealed to. Changes when the owner rotates it';
COMMENT ON COLUMN qs.queues.next_seq IS 'Sequence number of the next message; from 1, without gaps but those that a new generation makes (QS-12). Grows';
COMMENT ON COLUMN qs.queues.acked_seq IS
    'Sequence number up to which messages were acknowledged by the owner and deleted. Grows';
COMMENT ON COLUMN qs.queues.expired_seq IS
    'Sequence number up to which messages that were not acknowledged were deleted, because they were too old or the operator purged the queue. Grows';
COMMENT ON COLUMN qs.queues.skipped IS
    'Numbers among those that are neither acknowledged nor expired that no message has, because a restore began a generation while messages waited (QS-12); 0 for nearly all. Changes';
COMMENT ON COLUMN qs.queues.last_chain IS
    'Number of the chain that was started last; 0: none. Grows, so that no number comes twice';
COMMENT ON COLUMN qs.queues.address_count IS 'Number of the queue''s addresses, with those that were not renewed for qs.settings.address_days; nothing here tells which they are. Changes';
COMMENT ON COLUMN qs.queues.last_resort_count IS 'Number of the queue''s addresses that do not bind. Changes';
COMMENT ON COLUMN qs.queues.waiting_bytes IS
    'Bytes of the messages that wait, sealed; zero is written at the latest by the first delivery to the emptied queue. Changes';
COMMENT ON COLUMN qs.queues.last_marker IS
    'Sequence number of the last message by which the QS told the owner that something is missing (QS-11); 0: none. Grows';
COMMENT ON COLUMN qs.queues.shares IS
    'What the queue''s addresses brought since it began to fill up, or on a day (QS-11), under a key in PostgreSQL''s shared memory; after a restart nothing opens it. Empty: nothing is counted. Changes';
COMMENT ON COLUMN qs.queues.last_active IS
    'Day (UTC) of the owner''s last request, because inactive queues expire by days (QS-8). Grows';

CREATE FUNCTION qs.season(day date) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (day - date '2000-01-01') / 90
$$;
COMMENT ON FUNCTION qs.season IS
    'Number of a season: 90 days, counted from 2000. Days are not kept with addresses, since they would join those that one client made on the same day (PRIV-4). The extension counts in the same way (pg_extension/src/queues.rs)';

CREATE TABLE qs.addresses (
    lookup bytea PRIMARY KEY CHECK (octet_length(lookup) = 32),
    sealed_queue_id bytea NOT NULL CHECK (octet_length(sealed_queue_id) = 32),
    binding bytea CHECK (octet_length(binding) = 32),
    last_resort boolean NOT NULL DEFAULT false,
    season integer NOT NULL DEFAULT qs.season(operator.today()),
    sealed_push bytea CHECK (octet_length(sealed_push) = 61),
    -- A last-resort KeyPackage is given to several inviters, and its address with it: bound to the first group that
    -- uses it, it would be worthless in the others.
    CONSTRAINT addresses_last_resort_unbound CHECK (NOT (last_resort AND binding IS NOT NULL))
) WITH (fillfactor = 90, autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0.01);
CREATE INDEX addresses_by_season ON qs.addresses (season);
COMMENT ON TABLE qs.addresses IS
    'Addresses that lead a sender to a queue (QS-3). Without the address itself, which is not stored, a row names no queue and no sender (PRIV-1)';
COMMENT ON COLUMN qs.addresses.lookup IS 'Labelled SHA-256 of the address (32 bytes). Never changes';
COMMENT ON COLUMN qs.addresses.sealed_queue_id IS
    'Queue id under a key derived from the address (16 + 16 bytes). Never changes';
COMMENT ON COLUMN qs.addresses.binding IS
    'Keyed hash (32 bytes) of the domain and group that used the address first; null before. Set once';
COMMENT ON COLUMN qs.addresses.last_resort IS
    'Whether it belongs to a last-resort KeyPackage, so that it never binds and every group may use it (QS-6). Never changes';
COMMENT ON COLUMN qs.addresses.season IS
    'Season (qs.season) in which its owner named it, or a delivery used it, last: nothing else tells that its queue is gone. Grows';
COMMENT ON COLUMN qs.addresses.sealed_push IS
    'Least urgency of a message that is pushed, and key of the push subscription, under a key derived from the address (12 + 33 + 16 bytes; QS-10); null: nothing is pushed. Changes';

-- Rows come and go and are never updated.
CREATE TABLE qs.messages (
    queue_id qs.queue_id NOT NULL,
    seq bigint NOT NULL,
    chain bigint NOT NULL,
    chain_index integer NOT NULL,
    chain_header qs.chain_header,
    ciphertext bytea NOT NULL,
    enqueued date NOT NULL DEFAULT operator.today(),
    PRIMARY KEY (queue_id, seq)
) WITH (
    -- Up to a page a message stays in its row: half the writes of one in the TOAST table.
    toast_tuple_target = 8160,
    -- All that is inserted is deleted soon, so dead rows tell when to vacuum, not inserts.
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_vacuum_threshold = 0,
    autovacuum_vacuum_scale_factor = 0.05,
    toast.autovacuum_vacuum_insert_threshold = -1,
    toast.autovacuum_vacuum_threshold = 0,
    toast.autovacuum_vacuum_scale_factor = 0.05,
    -- The table is as large as the deliveries between two vacuums, so vacuum must not fall behind: throttled as by
    -- default, it took half a minute for one minute's deliveries.
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_cost_delay = 0
);
-- Ciphertext does not compress.
ALTER TABLE qs.messages ALTER COLUMN ciphertext SET STORAGE EXTERNAL;
COMMENT ON TABLE qs.messages IS
    'Messages that wait to be acknowledged. No foreign key: each transaction that adds one has locked the row of qs.queues';
COMMENT ON COLUMN qs.messages.queue_id IS 'Queue that the message is in. Never changes';
COMMENT ON COLUMN qs.messages.seq IS 'Sequence number in the queue, from 1. Never changes';
COMMENT ON COLUMN qs.messages.chain IS 'Number of the chain that it is encrypted under. Never changes';
COMMENT ON COLUMN qs.messages.chain_index IS 'Place in the chain, from 0. Never changes';
COMMENT ON COLUMN qs.messages.chain_header IS 'Header of the chain, with its first message only. Never changes';
COMMENT ON COLUMN qs.messages.ciphertext IS
    'AES-256-GCM under the message key, 16 bytes longer than the payload. Never changes';
-- No index: within a queue, messages are in the order of their days, so the first one tells.
COMMENT ON COLUMN qs.messages.enqueued IS
    'Day (UTC) on which it came, because messages expire by days (QS-8). Never changes';

-- A table of its own, because every delivery writes the queue's row anew.
CREATE TABLE qs.push_subscriptions (
    queue_id bytea PRIMARY KEY CHECK (octet_length(queue_id) = 16),
    subscription bytea NOT NULL CHECK (octet_length(subscription) = 1052)
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE qs.push_subscriptions IS
    'Push subscriptions (RFC 8030) of queues, as bytes that only the queues'' addresses open (QS-10). A row goes with the queue';
COMMENT ON COLUMN qs.push_subscriptions.queue_id IS 'Queue. Never changes';
COMMENT ON COLUMN qs.push_subscriptions.subscription IS
    'Endpoint and keys, padded, under a key that the queue''s addresses carry (12 + 1024 + 16 bytes). Changes';

CREATE TABLE qs.application_server_keys (
    number integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    public_key bytea NOT NULL UNIQUE CHECK (octet_length(public_key) = 65),
    sealed_private_key bytea NOT NULL,
    replaced boolean NOT NULL DEFAULT false
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE qs.application_server_keys IS
    'Keys by which push services know this server (RFC 8292). Subscriptions are made for one of them; a row goes when the operator revokes it';
COMMENT ON COLUMN qs.application_server_keys.number IS
    'Serial number; the last key is published for new subscriptions. Never changes';
COMMENT ON COLUMN qs.application_server_keys.public_key IS
    'P-256 public key, an uncompressed point (65 bytes). Never changes';
COMMENT ON COLUMN qs.application_server_keys.sealed_private_key IS
    'Private key in PKCS #8, sealed under the server''s master key. The key never changes; the seal does with the master key';
COMMENT ON COLUMN qs.application_server_keys.replaced IS
    'Whether the operator replaced it: it is for subscriptions that were made for it already. Set once, then never changes';
CREATE TRIGGER application_server_keys_are_sealed
    BEFORE INSERT OR UPDATE OF sealed_private_key ON qs.application_server_keys FOR EACH ROW
    EXECUTE FUNCTION operator.check_seal('sealed_private_key', 'QS application server key', 'public_key');
-- Server processes keep the keys in memory: any change, however it is made, tells them.
CREATE TRIGGER application_server_keys_changed
    AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON qs.application_server_keys
    FOR EACH STATEMENT EXECUTE FUNCTION operator.raise_key_version();
ALTER TABLE qs.application_server_keys
    ENABLE ALWAYS TRIGGER application_server_keys_are_sealed, ENABLE ALWAYS TRIGGER application_server_keys_changed;

-- A change to anything of a friendship locks its row; fetches share the lock.
CREATE TABLE qs.friendships (
    friendship_id bytea PRIMARY KEY CHECK (octet_length(friendship_id) = 16),
    lookup bytea NOT NULL UNIQUE CHECK (octet_length(lookup) = 32),
    owner_key bytea NOT NULL CHECK (octet_length(owner_key) = 32),
    last_active date NOT NULL
) WITH (fillfactor = 90, autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0.01);
CREATE INDEX friendships_by_last_active ON qs.friendships (last_active);
COMMENT ON TABLE qs.friendships IS
    'Users with KeyPackages here, each under the pseudonym of a friendship token (QS-6). Joined to no queue, no address and no name';
COMMENT ON COLUMN qs.friendships.friendship_id IS 'Random id (16 bytes), known to this schema only. Never changes';
COMMENT ON COLUMN qs.friendships.lookup IS
    'Labelled SHA-256 of the friendship token (32 bytes). Changes when the token is rotated';
COMMENT ON COLUMN qs.friendships.owner_key IS
    'Ed25519 public key (32 bytes) that signs the requests of the user''s clients. Never changes';
COMMENT ON COLUMN qs.friendships.last_active IS
    'Day (UTC) of the owner''s last request, because inactive friendships expire by days (QS-8). Grows';

CREATE TABLE qs.stocks (
    friendship_id bytea NOT NULL REFERENCES qs.friendships ON DELETE CASCADE,
    stock_id bytea NOT NULL CHECK (octet_length(stock_id) = 16),
    ciphersuite integer NOT NULL,
    sealed_key bytea NOT NULL CHECK (octet_length(sealed_key) = 60),
    PRIMARY KEY (friendship_id, stock_id)
) WITH (fillfactor = 90, autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0.01);
COMMENT ON TABLE qs.stocks IS
    'Clients of a friendship, once for each ciphersuite that they have KeyPackages of (QS-6)';
COMMENT ON COLUMN qs.stocks.friendship_id IS 'Friendship. Never changes';
COMMENT ON COLUMN qs.stocks.stock_id IS
    'Random id (16 bytes), chosen by the client for one of its ciphersuites. Never changes';
COMMENT ON COLUMN qs.stocks.ciphersuite IS
    'Ciphersuite of all its packages (RFC 9420 §17.1). Changes with each publication';
COMMENT ON COLUMN qs.stocks.sealed_key IS
    'Key of its packages, under one derived from the friendship token (12 + 32 + 16 bytes). Changes with each publication, and with the token';

CREATE TABLE qs.key_packages (
    friendship_id bytea NOT NULL,
    stock_id bytea NOT NULL,
    number smallint NOT NULL CHECK (number >= 0),
    last_resort boolean NOT NULL CHECK (last_resort = (number = 0)),
    expires date NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (friendship_id, stock_id, number),
    FOREIGN KEY (friendship_id, stock_id) REFERENCES qs.stocks ON DELETE CASCADE
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 0);
ALTER TABLE qs.key_packages ALTER COLUMN sealed SET STORAGE EXTERNAL;
COMMENT ON TABLE qs.key_packages IS 'KeyPackages in stock. A row goes when it is handed out';
COMMENT ON COLUMN qs.key_packages.friendship_id IS 'Friendship. Never changes';
COMMENT ON COLUMN qs.key_packages.stock_id IS 'Stock of the friendship. Never changes';
COMMENT ON COLUMN qs.key_packages.number IS 'Place in the publication, from 1; 0: the last resort. Never changes';
COMMENT ON COLUMN qs.key_packages.last_resort IS
    'Whether it is the last resort, which is handed out when nothing else is left, and stays. Never changes';
COMMENT ON COLUMN qs.key_packages.expires IS
    'Day (UTC) on which its lifetime ends; it is handed out until message_days and two days before. Never changes';
COMMENT ON COLUMN qs.key_packages.sealed IS
    'KeyPackage and its attachment under the stock''s key: a dump without the friendship token shows no key and no address (PRIV-1). Never changes';

CREATE TABLE qs.sweep (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    day date NOT NULL DEFAULT 'epoch',
    position bytea,
    scrub_day date NOT NULL DEFAULT 'epoch',
    scrub_block bigint
);
COMMENT ON TABLE qs.sweep IS
    'Progress of the daily removal of expired rows, and of their traces on disk (QS-8, PRIV-3): one row. The session that is at it holds the row''s lock';
COMMENT ON COLUMN qs.sweep.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN qs.sweep.day IS 'Day (UTC) of the last sweep through all queues. Grows';
COMMENT ON COLUMN qs.sweep.position IS 'Queue id that was looked at last; null: the sweep is finished. Changes';
COMMENT ON COLUMN qs.sweep.scrub_day IS
    'Day (UTC) on which the traces of deleted messages were overwritten last. Grows';
COMMENT ON COLUMN qs.sweep.scrub_block IS
    'Number of the next page of qs.messages, and of the tables of accounts, to overwrite; null: the day''s scrub is finished. Changes';
INSERT INTO qs.sweep DEFAULT VALUES;

CREATE TABLE qs.removed (
    day date PRIMARY KEY,
    inactive_queues bigint NOT NULL DEFAULT 0,
    their_messages bigint NOT NULL DEFAULT 0,
    expired_messages bigint NOT NULL DEFAULT 0,
    purged_messages bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE qs.removed IS 'Numbers of queues and messages that were removed before their owners read them, by day';
COMMENT ON COLUMN qs.removed.day IS 'Day (UTC). Never changes';
COMMENT ON COLUMN qs.removed.inactive_queues IS
    'Queues without a request of their owner for qs.settings.queue_days. Grows on that day';
COMMENT ON COLUMN qs.removed.their_messages IS 'Messages that went with those queues. Grows on that day';
COMMENT ON COLUMN qs.removed.expired_messages IS
    'Messages that waited for longer than operator.settings.message_days. Grows on that day';
COMMENT ON COLUMN qs.removed.purged_messages IS
    'Messages that the operator removed, with or without their queue. Grows on that day';

-- Outcomes of API functions, success first. A refusal is an answer and not an exception, so that the token stays spent.
CREATE TYPE qs.create_queue_outcome AS ENUM ('created', 'token_spent', 'queue_exists');
COMMENT ON TYPE qs.create_queue_outcome IS 'Outcomes of qs.create_queue';
CREATE TYPE qs.add_addresses_outcome AS ENUM (
    'added', 'token_spent', 'unknown_queue', 'too_many_addresses', 'address_exists');
COMMENT ON TYPE qs.add_addresses_outcome IS 'Outcomes of qs.add_addresses';
CREATE TYPE qs.revoke_addresses_outcome AS ENUM ('revoked', 'token_spent', 'unknown_queue', 'unknown_address');
COMMENT ON TYPE qs.revoke_addresses_outcome IS 'Outcomes of qs.revoke_addresses';
CREATE TYPE qs.set_push_policy_outcome AS ENUM ('set', 'token_spent', 'unknown_queue', 'unknown_address');
COMMENT ON TYPE qs.set_push_policy_outcome IS 'Outcomes of qs.set_push_policy';
CREATE TYPE qs.subscribe_push_outcome AS ENUM ('subscribed', 'token_spent', 'unknown_queue');
COMMENT ON TYPE qs.subscribe_push_outcome IS 'Outcomes of qs.subscribe_push';
CREATE TYPE qs.rotate_keys_outcome AS ENUM ('rotated', 'token_spent', 'unknown_queue');
COMMENT ON TYPE qs.rotate_keys_outcome IS 'Outcomes of qs.rotate_keys';
CREATE TYPE qs.delete_queue_outcome AS ENUM ('deleted', 'token_spent', 'unknown_queue');
COMMENT ON TYPE qs.delete_queue_outcome IS 'Outcomes of qs.delete_queue';
CREATE TYPE qs.deposit_outcome AS ENUM ('deposited', 'token_spent', 'too_large', 'undeliverable');
COMMENT ON TYPE qs.deposit_outcome IS 'Outcomes of qs.deposit';
CREATE TYPE qs.receive_deliveries_outcome AS ENUM (
    'received', 'token_spent', 'unknown_homeserver', 'blocked', 'gap', 'too_large');
COMMENT ON TYPE qs.receive_deliveries_outcome IS 'Outcomes of qs.receive_deliveries';
CREATE TYPE qs.dequeue_outcome AS ENUM ('ok', 'token_spent', 'unknown_queue', 'after_too_large');
COMMENT ON TYPE qs.dequeue_outcome IS 'Outcomes of qs.dequeue and qs.next_messages';
CREATE TYPE qs.publish_key_packages_outcome AS ENUM (
    'published', 'token_spent', 'unknown_friendship', 'ciphersuite_forbidden', 'too_many_key_packages', 'too_many_stocks',
    'expires_too_soon');
COMMENT ON TYPE qs.publish_key_packages_outcome IS 'Outcomes of qs.publish_key_packages';
CREATE TYPE qs.fetch_key_packages_outcome AS ENUM (
    'fetched', 'token_spent', 'unknown_friendship', 'ciphersuite_forbidden');
COMMENT ON TYPE qs.fetch_key_packages_outcome IS 'Outcomes of qs.fetch_key_packages';
CREATE TYPE qs.count_key_packages_outcome AS ENUM ('counted', 'token_spent', 'unknown_friendship');
COMMENT ON TYPE qs.count_key_packages_outcome IS 'Outcomes of qs.count_key_packages';
CREATE TYPE qs.remove_key_packages_outcome AS ENUM ('removed', 'token_spent', 'unknown_friendship');
COMMENT ON TYPE qs.remove_key_packages_outcome IS 'Outcomes of qs.remove_key_packages';
CREATE TYPE qs.rotate_friendship_token_outcome AS ENUM (
    'rotated', 'token_spent', 'unknown_friendship', 'not_fresh', 'stale');
COMMENT ON TYPE qs.rotate_friendship_token_outcome IS 'Outcomes of qs.rotate_friendship_token';
CREATE TYPE qs.start_upkeep_outcome AS ENUM ('done', 'started', 'no_worker');
COMMENT ON TYPE qs.start_upkeep_outcome IS 'Outcomes of qs.start_upkeep';
CREATE TYPE qs.keep_up_outcome AS ENUM ('more', 'done', 'busy');
COMMENT ON TYPE qs.keep_up_outcome IS 'Outcomes of qs.keep_up, qs.remove_expired and qs.scrub_deleted';
CREATE TYPE qs.add_application_server_key_outcome AS ENUM ('added', 'not_due');
COMMENT ON TYPE qs.add_application_server_key_outcome IS 'Outcomes of qs.add_application_server_key';
CREATE TYPE qs.drop_push_subscription_outcome AS ENUM ('dropped', 'none');
COMMENT ON TYPE qs.drop_push_subscription_outcome IS 'Outcomes of qs.drop_push_subscription';
