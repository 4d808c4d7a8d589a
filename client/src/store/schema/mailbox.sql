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

-- Addresses of the group queue that are to lead nowhere.
CREATE TABLE revocations (address BLOB PRIMARY KEY) STRICT;

-- Every message that a queue delivered, in order; empty except in tests that ask for it.
CREATE TABLE deliveries (
    kind TEXT NOT NULL,
    seq INTEGER NOT NULL,
    payload BLOB NOT NULL,              -- a QueuePayload in CBOR
    PRIMARY KEY (kind, seq)
) STRICT;
