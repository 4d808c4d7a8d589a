-- Clients of users, as the AS and the users' EIDs confirmed.
CREATE TABLE identities (client_key BLOB PRIMARY KEY, user TEXT NOT NULL) STRICT;

-- How far each user's EID was seen: it neither goes back nor becomes another.
CREATE TABLE eids (user TEXT PRIMARY KEY, group_id BLOB NOT NULL, epoch INTEGER NOT NULL) STRICT;

-- Welcomes to this user's EID, for devices that this one added.
CREATE TABLE grants (client_key BLOB PRIMARY KEY, welcome BLOB NOT NULL) STRICT;

-- The commit of this user's EID whose answer is outstanding. The bytes are kept until it is known.
CREATE TABLE identity_commits (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    body BLOB NOT NULL                  -- a CommitIdentity in CBOR
) STRICT;
