-- The Queuing Service: queues, the addresses that lead to them, and sealed messages
-- (QS-1 to QS-5). Delivery into these tables is postern.deliver in pg_extension/.

-- A table and not configuration parameters, because policies are changed in SQL, take
-- effect for every session at once, and are part of a dump.
CREATE TABLE qs.settings (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    chain_messages integer NOT NULL DEFAULT 1000 CHECK (chain_messages BETWEEN 1 AND 1000000),
    chain_days integer NOT NULL DEFAULT 1 CHECK (chain_days BETWEEN 1 AND 365),
    group_queue_depth integer NOT NULL DEFAULT 10000 CHECK (group_queue_depth > 0),
    contact_queue_depth integer NOT NULL DEFAULT 1000 CHECK (contact_queue_depth > 0),
    addresses_per_queue integer NOT NULL DEFAULT 10000 CHECK (addresses_per_queue > 0)
);
COMMENT ON TABLE qs.settings IS 'Limits of the Queuing Service: one row, read by every delivery';
COMMENT ON COLUMN qs.settings.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN qs.settings.chain_messages IS 'Messages after which a queue gets a new chain (QS-5). May change';
COMMENT ON COLUMN qs.settings.chain_days IS 'Calendar days (UTC) that a chain is used on; 1 = at most 24 hours. May change';
COMMENT ON COLUMN qs.settings.group_queue_depth IS 'Messages a group queue holds at most. May change';
COMMENT ON COLUMN qs.settings.contact_queue_depth IS 'Messages a contact queue holds at most. May change';
COMMENT ON COLUMN qs.settings.addresses_per_queue IS 'Addresses a queue has at most. May change';
INSERT INTO qs.settings DEFAULT VALUES;

-- Every delivery updates the row. At fillfactor 50 the new version nearly always finds
-- room on its page and no index changes (HOT; measured 99.6 %).
CREATE TABLE qs.queues (
    queue_id bytea PRIMARY KEY CHECK (octet_length(queue_id) = 16),
    kind text NOT NULL CHECK (kind IN ('contact', 'group')),
    owner_key bytea NOT NULL CHECK (octet_length(owner_key) = 32),
    hpke_key bytea NOT NULL CHECK (octet_length(hpke_key) = 32),
    next_seq bigint NOT NULL DEFAULT 1 CHECK (next_seq >= 1),
    acked_seq bigint NOT NULL DEFAULT 0 CHECK (acked_seq >= 0 AND acked_seq < next_seq),
    last_chain bigint NOT NULL DEFAULT 0 CHECK (last_chain >= 0),
    address_count integer NOT NULL DEFAULT 0 CHECK (address_count >= 0),
    last_active date NOT NULL,
    created date NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE qs.queues IS 'Pseudonymous mailboxes. Whoever updates a row of several locks them in the order of queue_id';
COMMENT ON COLUMN qs.queues.queue_id IS '16 random bytes, chosen by the owner. Never changes';
COMMENT ON COLUMN qs.queues.kind IS 'contact: anyone deposits. group: a group''s DS delivers to bound addresses. Never changes';
COMMENT ON COLUMN qs.queues.owner_key IS 'Ed25519 public key (32 bytes) that signs the owner''s requests. May be rotated';
COMMENT ON COLUMN qs.queues.hpke_key IS 'X25519 public key (32 bytes) that new chains are sealed to. May be rotated';
COMMENT ON COLUMN qs.queues.next_seq IS 'Sequence number of the next message; from 1, without gaps. Grows';
COMMENT ON COLUMN qs.queues.acked_seq IS 'Messages up to here were acknowledged by the owner and deleted. Grows';
COMMENT ON COLUMN qs.queues.last_chain IS 'Number of the chain started last; 0 = none. Logged, unlike qs.chains, so that a number never comes twice. Grows';
COMMENT ON COLUMN qs.queues.address_count IS 'Addresses of the queue; which ones cannot be seen from here. Changes';
COMMENT ON COLUMN qs.queues.last_active IS 'Day (UTC) of the owner''s last request. Grows';
COMMENT ON COLUMN qs.queues.created IS 'Day (UTC). Never changes';

CREATE TABLE qs.addresses (
    lookup bytea PRIMARY KEY CHECK (octet_length(lookup) = 32),
    sealed_queue_id bytea NOT NULL CHECK (octet_length(sealed_queue_id) = 32),
    binding bytea CHECK (octet_length(binding) = 32)
) WITH (fillfactor = 90);
COMMENT ON TABLE qs.addresses IS 'What leads a sender to a queue. Without the address itself, which is not stored, a row names neither queue nor sender (PRIV-1)';
COMMENT ON COLUMN qs.addresses.lookup IS 'Labelled SHA-256 of the address (32 bytes). Never changes';
COMMENT ON COLUMN qs.addresses.sealed_queue_id IS 'The queue id under a key derived from the address (16 + 16 bytes). Never changes';
COMMENT ON COLUMN qs.addresses.binding IS 'Keyed hash (32 bytes) of the domain and group that used the address first; null before. Set once (QS-3)';

-- UNLOGGED, because chain keys must not reach WAL, replicas or base backups. What a crash
-- empties is replaced by new chains. Dump with --no-unlogged-table-data.
-- Every delivery replaces the row: room for HOT updates, and frequent vacuum, since dead
-- versions of a row hold keys that are to be forgotten.
CREATE UNLOGGED TABLE qs.chains (
    queue_id bytea PRIMARY KEY,
    chain bigint NOT NULL,
    next_index integer NOT NULL,
    chain_key bytea NOT NULL CHECK (octet_length(chain_key) = 32),
    started date NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02);
COMMENT ON TABLE qs.chains IS 'The current chain of each queue (QS-5), locked by the row of qs.queues';
COMMENT ON COLUMN qs.chains.queue_id IS 'Whose chain. Never changes';
COMMENT ON COLUMN qs.chains.chain IS 'Number of the chain. Grows';
COMMENT ON COLUMN qs.chains.next_index IS 'Index of the next message in the chain, from 0. Grows, restarts with a new chain';
COMMENT ON COLUMN qs.chains.chain_key IS 'Key (32 bytes) that the next message key is derived from. Replaced with each message';
COMMENT ON COLUMN qs.chains.started IS 'Day (UTC) on which the chain was started. Changes with the chain';

-- Rows come and go and are never updated.
CREATE TABLE qs.messages (
    queue_id bytea NOT NULL,
    seq bigint NOT NULL,
    chain bigint NOT NULL,
    chain_index integer NOT NULL,
    chain_header bytea CHECK (octet_length(chain_header) = 80),
    ciphertext bytea NOT NULL,
    PRIMARY KEY (queue_id, seq)
) WITH (
    -- Up to a page a message stays in its row: half the writes of one in the TOAST table.
    toast_tuple_target = 8160,
    -- All that is inserted is deleted soon, so dead rows tell when to vacuum, not inserts.
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_vacuum_scale_factor = 0.05,
    toast.autovacuum_vacuum_insert_threshold = -1,
    toast.autovacuum_vacuum_scale_factor = 0.05
);
-- Ciphertext does not compress.
ALTER TABLE qs.messages ALTER COLUMN ciphertext SET STORAGE EXTERNAL;
COMMENT ON TABLE qs.messages IS 'Messages that wait to be acknowledged. No foreign key: the row of qs.queues is locked whenever one is added';
COMMENT ON COLUMN qs.messages.queue_id IS 'Whose message. Never changes';
COMMENT ON COLUMN qs.messages.seq IS 'Place in the queue. Never changes';
COMMENT ON COLUMN qs.messages.chain IS 'Chain it is encrypted under. Never changes';
COMMENT ON COLUMN qs.messages.chain_index IS 'Place in the chain, from 0. Never changes';
COMMENT ON COLUMN qs.messages.chain_header IS 'With a chain''s first message: its first key, sealed to the owner''s HPKE key (80 bytes). Never changes';
COMMENT ON COLUMN qs.messages.ciphertext IS 'AES-256-GCM under the message key, 16 bytes longer than the payload. Never changes';
