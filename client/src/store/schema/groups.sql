-- Private keys of leaves: of groups, of KeyPackages in stock, and of the user in each.
CREATE TABLE leaf_keys (public_key BLOB PRIMARY KEY, seed BLOB NOT NULL) STRICT;

-- Groups that this device is or was in. Their MLS state is openmls's.
CREATE TABLE groups (
    group_id BLOB PRIMARY KEY,          -- the MLS group id
    title TEXT NOT NULL,                -- empty until it was told
    leaf_key BLOB NOT NULL,             -- the public key of this device's leaf
    active INTEGER NOT NULL,            -- 1 while this device is a member
    introduce INTEGER NOT NULL,         -- 1 while members added by this device wait for an introduction
    next_number INTEGER NOT NULL,       -- of this device's next application message
    attributes_key BLOB,                -- opens attributes of leaves; null until it was told
    committed INTEGER NOT NULL,         -- seconds since 1970: this device's last commit, or its coming in
    proposed INTEGER                    -- seconds since 1970: since when proposals of others wait
) STRICT;

-- Messages handed to the DS whose answer is outstanding: of each group a commit and an
-- application message at most. The bytes are kept, so that a repeat is identical.
CREATE TABLE submissions (
    group_id BLOB NOT NULL,
    is_commit INTEGER NOT NULL,
    epoch INTEGER NOT NULL,             -- that it was made in
    body BLOB NOT NULL,                 -- a SubmitMessage in CBOR
    content BLOB,                       -- an ApplicationMessage in CBOR; null for a commit
    PRIMARY KEY (group_id, is_commit)
) STRICT;

-- Clients that members say they are, and the number of each member's last message.
CREATE TABLE links (
    group_id BLOB NOT NULL,
    leaf_key BLOB NOT NULL,
    client_key BLOB,                    -- that the link names; null without one
    link BLOB,                          -- an IdentityLink in CBOR
    last_number INTEGER NOT NULL,
    PRIMARY KEY (group_id, leaf_key)
) STRICT;

-- Clients that groups wait for, until they are added.
CREATE TABLE invitations (
    group_id BLOB NOT NULL,
    client_key BLOB NOT NULL,
    user TEXT NOT NULL,                 -- name@domain
    PRIMARY KEY (group_id, client_key)
) STRICT;

-- Users whose KeyPackages are to be fetched for that.
CREATE TABLE fetches (user TEXT PRIMARY KEY) STRICT;
