-- This user's friendship, which all of its devices share, and this device's place in it.
CREATE TABLE friendship (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    friendship BLOB NOT NULL,           -- a Friendship in CBOR
    unknown INTEGER NOT NULL DEFAULT 0  -- 1: the QS does not know it any more
) STRICT;

-- Changes of this user's friendships that the QS is to be asked for, in order.
CREATE TABLE friendship_changes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    change BLOB NOT NULL                -- a Change in CBOR
) STRICT;

-- Users, and what they and this one agreed on.
CREATE TABLE contacts (
    user TEXT PRIMARY KEY,
    founding BLOB NOT NULL,             -- transcript of epoch 0 of the user's identity that it holds for
    friend BLOB,                        -- a Friend in CBOR: the friendship that the user gave to this one
    given INTEGER NOT NULL,             -- 1: the user was given this one's
    decided BLOB                        -- an Edition in CBOR: when that was decided; NULL: never
) STRICT;

-- Contact requests of this device.
CREATE TABLE requests (
    client_key BLOB PRIMARY KEY,        -- the client that was asked
    request_id BLOB NOT NULL,
    user TEXT NOT NULL,
    declined INTEGER NOT NULL           -- 1: it was declined, and may be accepted all the same
) STRICT;

-- Contact requests of others, verified, that wait for a person.
CREATE TABLE received_requests (
    client_key BLOB PRIMARY KEY,        -- the client that asks
    user TEXT NOT NULL,
    request_id BLOB NOT NULL,
    contact BLOB NOT NULL,              -- a SignedContact in CBOR: where the answer goes
    time INTEGER NOT NULL,              -- when the user asked first, in seconds since 1970
    declined INTEGER NOT NULL           -- 1: a person declined it
) STRICT;

-- Letters that came in and whose senders the AS has to confirm; of each sender and subject the last one.
CREATE TABLE letters (
    client_key BLOB NOT NULL,           -- the sender
    subject TEXT NOT NULL,
    user TEXT NOT NULL,                 -- the user that the sender says it belongs to
    number INTEGER NOT NULL,
    time INTEGER NOT NULL,              -- seconds since 1970, by the sender's clock
    stamp BLOB NOT NULL,                -- a Stamp in CBOR
    body BLOB NOT NULL,                 -- a LetterBody in CBOR
    stranger INTEGER NOT NULL,          -- 1: no lookup had confirmed the sender when it came
    lookup BLOB,                        -- secret by which the user can be looked up; null: the letter has none
    home_key BLOB,                      -- key of the sender's homeserver; null: the letter has none
    address BLOB,                       -- where to write to the sender from then on; null: the letter has none
    due INTEGER NOT NULL,               -- when the AS is asked (again), in seconds since 1970
    unconfirmed INTEGER NOT NULL DEFAULT 0, -- 1: a request that the AS did not confirm, and that was told as such
    PRIMARY KEY (client_key, subject)
) STRICT;

-- The last letter that was read of each sender and subject, until it would be too old.
CREATE TABLE letter_numbers (
    client_key BLOB NOT NULL,
    subject TEXT NOT NULL,
    number INTEGER NOT NULL,
    time INTEGER NOT NULL,              -- seconds since 1970, by the sender's clock
    PRIMARY KEY (client_key, subject)
) STRICT;

-- Parts of what other devices of this user said in more than one letter, until all are there: of each device the last ones.
CREATE TABLE secrets_parts (
    client_key BLOB NOT NULL,           -- the sender
    part INTEGER NOT NULL,              -- from 0
    whole BLOB NOT NULL,                -- SHA-256 of all parts together
    number INTEGER NOT NULL,            -- of the letter
    time INTEGER NOT NULL,              -- seconds since 1970, by the sender's clock
    content BLOB NOT NULL,
    PRIMARY KEY (client_key, part)
) STRICT;

-- The number of this device's last letter.
CREATE TABLE letter_clock (one INTEGER PRIMARY KEY CHECK (one = 1), number INTEGER NOT NULL) STRICT;

-- News for contacts and for this user's other devices, until letters are written.
CREATE TABLE news (
    user TEXT NOT NULL,
    news BLOB NOT NULL,                 -- a News in CBOR
    due INTEGER NOT NULL,               -- when to try (again), in seconds since 1970
    missed INTEGER NOT NULL DEFAULT 0,  -- how often the AS knew nobody of that name
    PRIMARY KEY (user, news)
) STRICT;

-- Addresses that clients of contacts, and this user's other devices, gave this one: letters go there first.
CREATE TABLE given_addresses (
    client_key BLOB PRIMARY KEY,        -- the client that gave it
    user TEXT NOT NULL,
    address BLOB NOT NULL,
    number INTEGER NOT NULL             -- of the letter that brought it
) STRICT;

-- Sealed letters on their way to contact queues.
CREATE TABLE deposits (
    id INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    client_key BLOB NOT NULL,           -- the receiver
    address BLOB NOT NULL,
    payload BLOB NOT NULL,              -- sealed for that address
    unsealed BLOB                       -- Stamp and LetterBody in CBOR, for another address; null: this is the other one
) STRICT;

-- When contacts are looked up next that nobody asks for, in seconds since 1970.
CREATE TABLE contact_turn (one INTEGER PRIMARY KEY CHECK (one = 1), due INTEGER NOT NULL) STRICT;

-- The last time that each contact's turn came, and whether the AS knew it then.
CREATE TABLE contact_looks (
    user TEXT PRIMARY KEY,
    looked INTEGER NOT NULL,            -- seconds since 1970
    missing INTEGER NOT NULL            -- 1: the AS knows nobody of that name, which was told
) STRICT;

-- Identities of users as the safety number showed them last.
CREATE TABLE safety_numbers (
    user TEXT PRIMARY KEY,
    shown BLOB NOT NULL                 -- a Shown in CBOR
) STRICT;
