-- The two queues of this device.
CREATE TABLE queues (
    kind TEXT PRIMARY KEY,              -- group or contact
    queue_id BLOB NOT NULL,
    owner_seed BLOB NOT NULL,           -- of the key that signs requests for the queue
    hpke_key BLOB NOT NULL,             -- the private key that chains open with
    previous_hpke_key BLOB,             -- the one before, until a chain opened with its successor
    position INTEGER NOT NULL,          -- sequence number of the last processed message
    chain INTEGER NOT NULL,             -- number of the last chain
    chain_index INTEGER NOT NULL,       -- of the chain's next message
    chain_key BLOB                      -- opens that message; null between chains
) STRICT;

-- Keys that are on their way to replace a queue's.
CREATE TABLE key_rotations (
    kind TEXT PRIMARY KEY,
    owner_seed BLOB NOT NULL,
    hpke_key BLOB NOT NULL
) STRICT;

-- When the addresses of each queue were renewed last, all those that this device keeps.
CREATE TABLE renewals (
    kind TEXT PRIMARY KEY,
    done INTEGER NOT NULL               -- seconds since 1970
) STRICT;

-- Addresses of the queues that are to lead nowhere. The QS, restored to an earlier state, may have them again.
CREATE TABLE revocations (
    address BLOB PRIMARY KEY,
    kind TEXT NOT NULL,                 -- of the queue: group or contact
    done INTEGER                        -- seconds since 1970: when the QS revoked it; null: it did not yet
) STRICT;

-- Every message that a queue delivered, in order; empty except in tests that ask for it.
CREATE TABLE deliveries (
    kind TEXT NOT NULL,
    seq INTEGER NOT NULL,
    payload BLOB NOT NULL,              -- a QueuePayload in CBOR
    PRIMARY KEY (kind, seq)
) STRICT;
