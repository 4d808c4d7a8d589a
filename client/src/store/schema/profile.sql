-- Profiles of users, this device's own among them.
CREATE TABLE profiles (
    user TEXT PRIMARY KEY,
    key BLOB,                           -- a SharedProfileKey in CBOR, which a device of the user gave; of the own user:
                                        -- that the profile at the AS is under
    told BLOB NOT NULL,                 -- while there is none: keys that others told, each a ToldKey, in CBOR
    profile BLOB,                       -- the newest that counts: a SignedProfile in CBOR; null: none
    for_contacts BLOB,                  -- its ForContacts in CBOR, or that of the last one that opened; null: none
    version INTEGER NOT NULL,           -- that the AS showed last, whether it counts or not; 0: none
    claimed INTEGER NOT NULL,           -- the greatest that a device of the user told, and that was asked for
    claimed_by BLOB,                    -- the client that told it, until a lookup shows it; null: none
    looks INTEGER NOT NULL              -- lookups since that did not show it: at the second one that is told
) STRICT;
