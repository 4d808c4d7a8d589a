-- This client's account, and how far its setting up has come.
CREATE TABLE account (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    state BLOB NOT NULL                 -- an Account in CBOR
) STRICT;

-- The link under way, by which this device gets another one, or becomes one of a user.
CREATE TABLE linking (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    state BLOB NOT NULL                 -- a Linking in CBOR
) STRICT;

-- Devices that this one added to the user's identity, and that have to show up in it.
CREATE TABLE added_devices (
    client_key BLOB PRIMARY KEY,
    due INTEGER NOT NULL                -- seconds since 1970: when it is removed again if it did not
) STRICT;
