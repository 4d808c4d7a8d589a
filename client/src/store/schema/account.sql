-- Who this client is, and how far its setting up has come.
CREATE TABLE account (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    state BLOB NOT NULL                 -- an Account in CBOR
) STRICT;
