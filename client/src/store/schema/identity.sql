-- Clients of users, as the latest lookup showed them: those in the user's EID that confirmed themselves
-- (AS-4) and have a credential. Of each identity in eids as many as the AS lets an EID have.
CREATE TABLE identities (
    client_key BLOB NOT NULL,
    user TEXT NOT NULL,
    pending INTEGER NOT NULL DEFAULT 0 CHECK (pending IN (0, 1)), -- of which of the user's two identities it is one
    PRIMARY KEY (user, pending, client_key)
) STRICT;
CREATE UNIQUE INDEX identities_have_one_user ON identities (client_key) WHERE pending = 0;
CREATE INDEX identities_by_client ON identities (client_key);

-- Identities of users as far as they were seen: what is shown later extends them. Users that this one has nothing to do
-- with any more are forgotten.
CREATE TABLE eids (
    user TEXT NOT NULL,
    pending INTEGER NOT NULL CHECK (pending IN (0, 1)), -- 1: does not extend the other, and waits for a person
    founder BLOB NOT NULL,              -- the key of the client in epoch 0
    founding BLOB NOT NULL,             -- the transcript of epoch 0
    incarnation INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    transcript BLOB NOT NULL,
    public_group BLOB NOT NULL,         -- a PublicEid
    former BLOB NOT NULL DEFAULT x'80', -- names that the user had when it was seen, as far as a leaf has one: CBOR
    called TEXT,                        -- of an identity that waits for a person: its name by now, if it is another one
    seen INTEGER NOT NULL,              -- the time of the newest freshness ticket, in seconds since 1970
    verified INTEGER NOT NULL CHECK (verified IN (0, 1)), -- compared with the user by a person
    split BLOB,                         -- the state of another history that was told last: an EidState's bytes
    PRIMARY KEY (user, pending)
) STRICT;
CREATE INDEX eids_renamed ON eids (user) WHERE former <> x'80';

-- Transcripts of the epochs of these identities that were seen: of each the last 10,000.
CREATE TABLE eid_epochs (
    user TEXT NOT NULL,
    pending INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    transcript BLOB NOT NULL,
    PRIMARY KEY (user, pending, epoch)
) STRICT, WITHOUT ROWID;

-- States of users' identities that their clients told, and that are newer than any that the AS showed or of another
-- history, until it shows them. Of each client in an identity of eids one at most.
CREATE TABLE eid_claims (
    user TEXT NOT NULL,
    client_key BLOB NOT NULL,           -- the client that told it
    state BLOB NOT NULL,                -- an EidState in CBOR
    tried INTEGER NOT NULL,             -- lookups since that showed the user, and did not show it
    in_vain INTEGER NOT NULL DEFAULT 0, -- lookups since one last showed what the client told
    unreached INTEGER NOT NULL DEFAULT 0, -- attempts since the AS answered last
    due INTEGER,                        -- seconds since 1970: when the AS is asked; null: it was told as a split
    PRIMARY KEY (user, client_key)
) STRICT;

-- Users in eids of whom the last lookups showed nothing that holds, though the AS was there, until one does.
CREATE TABLE hidden_identities (
    user TEXT PRIMARY KEY,
    since INTEGER NOT NULL,             -- seconds since 1970: when the first lookup failed
    failed INTEGER NOT NULL,            -- seconds since 1970: when the last one failed that counts
    failures INTEGER NOT NULL DEFAULT 1, -- those that count: with an hour between two
    is_told INTEGER NOT NULL DEFAULT 0 CHECK (is_told IN (0, 1)) -- 1: this user was told
) STRICT;

-- Names that this device's user gave to the user's devices: as many as the user liked. No server sees them.
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

-- Commits of this device to this user's EID that took effect lately: an AS that was restored to an earlier state gets them
-- again.
CREATE TABLE made_commits (
    epoch INTEGER PRIMARY KEY,          -- that the commit ended
    body BLOB NOT NULL,                 -- a CommitIdentity in CBOR
    made INTEGER NOT NULL               -- seconds since 1970
) STRICT;

-- This user's other devices, as this one saw them itself: as many as are in the own EID.
CREATE TABLE watched_devices (
    client_key BLOB PRIMARY KEY,
    ends INTEGER NOT NULL,              -- the latest end of a credential of it that verified, in seconds since 1970; 0: none
    silent INTEGER                      -- since when looks showed no valid credential of it; null: the last one did
) STRICT;

-- This user's other devices that said that they log out, until they are out of the own EID.
CREATE TABLE leaving_devices (client_key BLOB PRIMARY KEY) STRICT;

-- When this user's own devices were looked after last, in seconds since 1970.
CREATE TABLE identity_upkeep (one INTEGER PRIMARY KEY CHECK (one = 1), done INTEGER NOT NULL) STRICT;

-- The keys of each domain's AS as they were shown last, and when this device looked at its own one's by itself.
CREATE TABLE issuers (
    domain TEXT PRIMARY KEY,
    keys BLOB NOT NULL,                 -- AuthenticationKeys in CBOR; their root stays
    looked INTEGER NOT NULL             -- seconds since 1970
) STRICT;

-- Keys that an AS published and revoked: nothing counts that they signed. Those of other keys never did, and are not
-- here. Of each domain the last 256. A domain may show the key of another one as its own.
CREATE TABLE revoked_issuers (
    public_key BLOB NOT NULL,
    domain TEXT NOT NULL,
    PRIMARY KEY (domain, public_key)
) STRICT;
