-- Profiles of users, this device's own among them.
CREATE TABLE profiles (
    user TEXT PRIMARY KEY,
    key BLOB,                           -- 32 bytes, if the user gave it; the own one from when it is needed
    profile BLOB,                       -- the newest that was seen: a SignedProfile in CBOR; null: none
    hidden INTEGER NOT NULL DEFAULT 0 CHECK (hidden IN (0, 1)) -- 1: the own user can be looked up by contacts only
) STRICT;
