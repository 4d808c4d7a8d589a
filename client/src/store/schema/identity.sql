-- Clients of users, as the latest lookup showed them: those in the user's EID that confirmed themselves
-- (AS-4) and have a credential.
CREATE TABLE identities (client_key BLOB PRIMARY KEY, user TEXT NOT NULL) STRICT;
CREATE INDEX identities_of_user ON identities (user);

-- Identities of users as far as they were seen: what is shown later extends them.
CREATE TABLE eids (
    user TEXT NOT NULL,
    pending INTEGER NOT NULL CHECK (pending IN (0, 1)), -- 1: does not extend the other, and waits for a person
    founder BLOB NOT NULL,              -- the key of the client in epoch 0
    founding BLOB NOT NULL,             -- the transcript of epoch 0
    incarnation INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    transcript BLOB NOT NULL,
    public_group BLOB NOT NULL,         -- a PublicEid
    seen INTEGER NOT NULL,              -- the time of the newest freshness ticket, in seconds since 1970
    verified INTEGER NOT NULL CHECK (verified IN (0, 1)), -- compared with the user by a person
    split INTEGER NOT NULL DEFAULT 0 CHECK (split IN (0, 1)), -- somebody saw another history of it, which was told
    PRIMARY KEY (user, pending)
) STRICT;

-- Transcripts of the epochs of these identities that were seen.
CREATE TABLE eid_epochs (
    user TEXT NOT NULL,
    pending INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    transcript BLOB NOT NULL,
    PRIMARY KEY (user, pending, epoch)
) STRICT, WITHOUT ROWID;

-- States of users' identities that their clients told, and that are newer than any that the AS showed.
CREATE TABLE eid_claims (
    user TEXT PRIMARY KEY,
    state BLOB NOT NULL,                -- an EidState in CBOR
    tried INTEGER NOT NULL              -- lookups since that did not show it
) STRICT;

-- Names that this device's user gave to the user's devices. No server sees them.
CREATE TABLE device_names (client_key BLOB PRIMARY KEY, name TEXT NOT NULL) STRICT;

-- Welcomes to this user's EID, for devices that this one added.
CREATE TABLE grants (
    client_key BLOB PRIMARY KEY,
    welcome BLOB NOT NULL               -- an EidWelcome in CBOR
) STRICT;

-- The commit of this user's EID whose answer is outstanding. The bytes are kept until it is known.
CREATE TABLE identity_commits (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    body BLOB NOT NULL                  -- an Outstanding in CBOR
) STRICT;

-- This user's other devices that the AS shows no credential of, and since when.
CREATE TABLE silent_devices (client_key BLOB PRIMARY KEY, since INTEGER NOT NULL) STRICT;

-- When this user's own devices were looked after last, in seconds since 1970.
CREATE TABLE identity_upkeep (one INTEGER PRIMARY KEY CHECK (one = 1), done INTEGER NOT NULL) STRICT;

-- The AS's keys as they were shown last, and when this device looked at them by itself.
CREATE TABLE issuers (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    keys BLOB NOT NULL,                 -- AuthenticationKeys in CBOR; their root stays
    looked INTEGER NOT NULL             -- seconds since 1970
) STRICT;

-- Keys that the AS revoked: nothing counts that they signed.
CREATE TABLE revoked_issuers (public_key BLOB PRIMARY KEY) STRICT;
