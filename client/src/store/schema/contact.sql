-- This user's friendship, which all of its devices share, and this device's place in it.
CREATE TABLE friendship (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    friendship BLOB NOT NULL            -- a Friendship in CBOR
) STRICT;

-- A friendship token that is on its way to replace another.
CREATE TABLE rotations (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    rotation BLOB NOT NULL              -- a RotateFriendshipToken in CBOR
) STRICT;

-- Friendships that devices sent which say that they are this user's, until the AS was asked.
CREATE TABLE received_secrets (client_key BLOB PRIMARY KEY, secrets BLOB NOT NULL) STRICT;

-- Friendships that users gave to this one.
CREATE TABLE friends (user TEXT PRIMARY KEY, friend BLOB NOT NULL) STRICT;

-- Clients that this device gave the user's friendship, and where they hear of another.
CREATE TABLE given (client_key BLOB PRIMARY KEY, user TEXT NOT NULL, contact BLOB NOT NULL) STRICT;

-- Contact requests of this device that were not answered yet.
CREATE TABLE requests (
    request_id BLOB PRIMARY KEY,
    client_key BLOB NOT NULL,           -- the client that was asked
    user TEXT NOT NULL
) STRICT;

-- Contact requests of others that were not answered yet.
CREATE TABLE received_requests (request_id BLOB PRIMARY KEY, request BLOB NOT NULL) STRICT;

-- Sealed letters on their way to contact queues.
CREATE TABLE deposits (
    id INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    address BLOB NOT NULL,
    payload BLOB NOT NULL
) STRICT;
