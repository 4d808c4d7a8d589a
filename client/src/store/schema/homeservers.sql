-- Homeservers of other domains as their descriptions say that were verified last, and the own one as a neighbour shows it
-- that relays what this client asks.
CREATE TABLE homeservers (
    domain TEXT PRIMARY KEY,
    description BLOB NOT NULL,          -- in JSON, byte for byte
    day INTEGER NOT NULL,               -- days since 1970: when it was fetched
    differs INTEGER,                    -- the last day on which the user was told of keys that none of those vouches for
    told BLOB,                          -- the first key that a friend there has and this device does not know; null: none
    told_since INTEGER,                 -- seconds since 1970: when it was told
    doubted BLOB,                       -- the last such key of which the user was told
    due INTEGER NOT NULL DEFAULT 0,     -- seconds since 1970: when to look at it again, if this device has groups there
    restored INTEGER NOT NULL DEFAULT 0 -- 1 once it was restored to an earlier state, until that was noted of the groups there
) STRICT;

-- Keys of homeservers that this device trusts: those of the first description, and those that they endorsed.
CREATE TABLE homeserver_keys (
    domain TEXT NOT NULL,
    public_key BLOB NOT NULL,
    not_after INTEGER NOT NULL,         -- seconds since 1970: its last one
    PRIMARY KEY (domain, public_key)
) STRICT;

-- The own homeserver, as it says itself, and as a neighbour sees it.
CREATE TABLE own_homeserver (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    public_key BLOB,                    -- the key with which it signs; null: it has not shown one yet
    looked INTEGER,                     -- seconds since 1970: when it showed that last
    compared INTEGER                    -- seconds since 1970: when a neighbour was asked last for what it sees
) STRICT;

-- Keys of the own homeserver whose last comparison failed, until one does not.
CREATE TABLE missed_comparisons (
    keys TEXT PRIMARY KEY,              -- as the user is told of them
    since INTEGER NOT NULL,             -- seconds since 1970: when the first one failed
    failed INTEGER NOT NULL,            -- seconds since 1970: when the last one did
    failures INTEGER NOT NULL DEFAULT 1, -- the first one, and those before which it answered something else
    has_answered INTEGER NOT NULL DEFAULT 0, -- 1: it answered something else since the last failure: it was there
    is_told INTEGER NOT NULL DEFAULT 0  -- 1: the user was told
) STRICT;

-- Domains whose AS was asked since a stranger wrote from there, within a day, or while letters from there wait.
CREATE TABLE met_domains (
    domain TEXT PRIMARY KEY,
    asked INTEGER NOT NULL,             -- seconds since 1970
    is_new INTEGER NOT NULL             -- 1: nothing was known of it before
) STRICT;
