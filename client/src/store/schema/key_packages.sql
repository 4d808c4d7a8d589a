-- This device's KeyPackages, as long as somebody may use them.
CREATE TABLE stock (
    leaf_key BLOB PRIMARY KEY,
    address BLOB NOT NULL,              -- its delivery address
    reference BLOB NOT NULL,            -- a KeyPackageRef in CBOR: openmls keeps the private keys under it
    expires INTEGER NOT NULL,           -- seconds since 1970
    last_resort INTEGER NOT NULL,
    current INTEGER NOT NULL            -- 1 if it is of the last publication
) STRICT;

-- The publication that is on its way to the QS.
CREATE TABLE publications (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    publication BLOB NOT NULL,          -- a Publication in CBOR
    refused INTEGER                     -- seconds since 1970: when the QS refused it; null: it did not
) STRICT;

-- When the stock was published and when it was counted last, in seconds since 1970.
CREATE TABLE stock_state (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    published INTEGER NOT NULL,
    counted INTEGER NOT NULL
) STRICT;

-- KeyPackages of others, fetched and not used yet.
CREATE TABLE key_packages (
    leaf_key BLOB PRIMARY KEY,
    client_key BLOB NOT NULL,
    user TEXT NOT NULL,
    key_package BLOB NOT NULL,          -- an MLSMessage
    link BLOB NOT NULL,                 -- an IdentityLink in CBOR
    reserved_for BLOB                   -- the group whose outstanding commit uses it
) STRICT;
