-- Private keys of leaves: of groups, of KeyPackages in stock, and of the user in each. The user's are
-- the same on all of its devices.
CREATE TABLE leaf_keys (public_key BLOB PRIMARY KEY, seed BLOB NOT NULL) STRICT;

-- Groups that this device is or was in. Their MLS state is openmls's.
CREATE TABLE groups (
    group_id BLOB PRIMARY KEY,          -- the MLS group id
    title TEXT NOT NULL,                -- empty until it was told
    leaf_key BLOB NOT NULL,             -- the public key of this device's leaf
    titled INTEGER NOT NULL DEFAULT 0,  -- number of the title: a greater one replaces it
    active INTEGER NOT NULL,            -- 1 while this device is a member
    entering INTEGER NOT NULL DEFAULT 0, -- until the DS accepted the external commit that brings this device in: 1,
                                        -- or 2 if it was in before, as a user of its own
    blocked INTEGER NOT NULL DEFAULT 0, -- 1 if this device left without telling, and is not to come in again by itself
    introduce INTEGER NOT NULL,         -- 1 while members added by this device wait for an introduction
    next_number INTEGER NOT NULL,       -- of this device's next application message
    attributes_key BLOB,                -- opens attributes of leaves; null until it was told
    attributes BLOB NOT NULL DEFAULT x'', -- the application's, of this device's leaf
    committed INTEGER NOT NULL,         -- seconds since 1970: this device's last commit, or its coming in; once it is out, its end
    proposed INTEGER,                   -- seconds since 1970: since when proposals of others wait
    leaving INTEGER NOT NULL DEFAULT 0, -- 1 from when this device wants to leave until it is out, or was refused
    successor BLOB,                     -- the MLS group id of the group that was founded in place of this one
    user_generation INTEGER,            -- the highest generation of the user's keys here that this device saw; null: of none
    server_key BLOB,                    -- the external sender's key that the server wants the group to have; null: its present one
    arrived INTEGER NOT NULL DEFAULT 0, -- epoch: all that the DS took before it began has come here
    comparison BLOB                     -- what is left to compare with what other devices of the user tell of it: a Comparison
                                        -- in CBOR. Null: nothing was noted
) STRICT;

-- Welcomes to groups of other domains whose DS could not be asked for the tree, and those to groups with others than this
-- device was told of, which is to come in by itself. Those that the DS has no tree for any more are dropped.
CREATE TABLE welcomes (
    welcome BLOB PRIMARY KEY,
    group_id BLOB NOT NULL,             -- the MLS group id
    family TEXT NOT NULL,               -- of names, which the group's domain is in
    attempts INTEGER NOT NULL,
    due INTEGER NOT NULL                -- seconds since 1970: when to ask again
) STRICT;

-- Messages of groups that this device is not in, which came while a Welcome to the group waits. They are read once this
-- device has joined, in the order in which they came, and dropped once no Welcome to the group waits.
CREATE TABLE early_messages (
    number INTEGER PRIMARY KEY,
    group_id BLOB NOT NULL,
    message BLOB NOT NULL               -- an MLSMessage
) STRICT;

-- Requests to the DS whose answer is outstanding: of each group one of a kind at most. The bytes are
-- kept until an answer accepts or refuses them, so that a repeat is identical.
CREATE TABLE submissions (
    group_id BLOB NOT NULL,
    kind INTEGER NOT NULL,              -- 0 creation, 1 rejoin, 2 commit, 3 leave, 4 message: sent in this order
    epoch INTEGER NOT NULL,             -- that it was made in
    body BLOB NOT NULL,                 -- a CreateGroup for a creation, else a SubmitMessage, in CBOR
    PRIMARY KEY (group_id, kind)
) STRICT;

-- Messages of this device that the DS did not accept yet, in the order of their numbers. Of each group
-- the first that was not refused is the one in submissions, if one is there.
CREATE TABLE outbox (
    group_id BLOB NOT NULL,
    number INTEGER NOT NULL,            -- that members know it by, from ApplicationMessage
    content BLOB NOT NULL,              -- a Content in CBOR
    refusal BLOB,                       -- the DS's problem in JSON, until the user was told
    PRIMARY KEY (group_id, number)
) STRICT;

-- Groups that this device cannot follow, or could not lately.
CREATE TABLE strayed (
    group_id BLOB PRIMARY KEY,
    state INTEGER NOT NULL,             -- 0 follows again, 1 doubtful, 2 cannot follow, 3 comes back by hand only, 4 behind,
                                        -- 5 something was lost, perhaps of the group
    since INTEGER NOT NULL,             -- seconds since 1970: when the state began, or begins
    attempts INTEGER NOT NULL,          -- at coming back, those that succeeded too; each makes the next wait longer
    due INTEGER NOT NULL,               -- seconds since 1970: when to look, or to come back
    broken INTEGER NOT NULL,            -- 1 once the user was told that it cannot come back
    in_vain INTEGER NOT NULL DEFAULT 0  -- looks for messages that anybody may have made up, since this device came back last; each
                                        -- makes the next wait longer
) STRICT;

-- Epochs of groups that this device was in since it came in, or back: the last thousand of each group.
CREATE TABLE epochs (
    group_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    tag BLOB NOT NULL,                  -- the confirmation tag of the commit that began it, as MLS writes it
    PRIMARY KEY (group_id, epoch)
) STRICT;

-- Commits and proposals of groups that had no effect here, in the order in which they came, until this device follows the
-- group again.
CREATE TABLE unfollowed (
    number INTEGER PRIMARY KEY,
    group_id BLOB NOT NULL,
    message BLOB NOT NULL               -- an MLSMessage
) STRICT;
CREATE INDEX unfollowed_group ON unfollowed (group_id);

-- Groups as this device took them when it last made a commit to come back, or as they became by commits that are not kept any
-- more, until it is back.
CREATE TABLE onlookers (
    group_id BLOB PRIMARY KEY,
    state BLOB NOT NULL                 -- openmls's public state, the leaf keys and pseudonyms that are trusted, and the pseudonyms
                                        -- of admins, in CBOR
) STRICT;

-- Clients that members are, as both keys signed, and the number of each member's last message. Of members that left,
-- whom the history names, a thousand at most, and besides those in former_leaves.
CREATE TABLE links (
    group_id BLOB NOT NULL,
    leaf_key BLOB NOT NULL,
    client_key BLOB,                    -- that the link names; null without one
    user TEXT,                          -- that the link names; null without one
    link BLOB,                          -- an IdentityLink in CBOR
    eid BLOB,                           -- state of the user's identity that the leaf's card tells: an EidState in CBOR. Null
                                        -- once it was compared with what the AS shows, which waits for the client's confirmation
    judged INTEGER,                     -- eids.seen of the user when the client was found not to speak for one; null before
    tried INTEGER NOT NULL DEFAULT 0,   -- lookups that did not confirm the client, though the AS answered
    unreached INTEGER NOT NULL DEFAULT 0, -- lookups since then at which the AS was out of reach
    due INTEGER NOT NULL DEFAULT 0,     -- seconds since 1970: when to ask the AS about the client, if it is not confirmed
    newcomer INTEGER NOT NULL DEFAULT 0, -- 1 while others are to be told of a member that this device added
    last_number INTEGER NOT NULL,
    missing INTEGER NOT NULL DEFAULT 0, -- numbers before it that did not come: bit 0 for the one just before, and so on
    PRIMARY KEY (group_id, leaf_key)
) STRICT;
CREATE INDEX links_client ON links (client_key);

-- Leaves that were in a user's place and went, until the user is in the group no more: of each user a hundred at most, and
-- one of each client. With the links of these leaves, whoever was in the place is known by name. Of a group that this device
-- is out of, also the leaves that were in it then, with links, for a quarter of a year.
CREATE TABLE former_leaves (
    group_id BLOB NOT NULL,
    leaf_key BLOB NOT NULL,
    pseudonym BLOB NOT NULL,            -- the user's
    severed INTEGER NOT NULL DEFAULT 0, -- 1 once none of the user's leaves was there any more that this device knew when it
                                        -- saw the group last: the place may be another user's
    PRIMARY KEY (group_id, leaf_key, pseudonym)
) STRICT;

-- Clients that groups wait for, until they are added.
CREATE TABLE invitations (
    group_id BLOB NOT NULL,
    client_key BLOB NOT NULL,
    user TEXT NOT NULL,                 -- name@domain
    retried INTEGER NOT NULL DEFAULT 0, -- 1 once the DS refused a KeyPackage, and another one was asked for
    PRIMARY KEY (group_id, client_key)
) STRICT;

-- Users whose KeyPackages are to be fetched for that.
CREATE TABLE fetches (user TEXT PRIMARY KEY) STRICT;

-- Groups of this user that this device is to enter by external commit, until it is in.
CREATE TABLE entries (
    group_id BLOB PRIMARY KEY,          -- the MLS group id
    handovers BLOB NOT NULL,            -- the last word of each device that told of it: a list of GroupHandovers in CBOR. This
                                        -- device goes by the first one
    address BLOB,                       -- where its messages are to go; null until the address was made
    attempts INTEGER NOT NULL,          -- that failed for good
    due INTEGER NOT NULL,               -- seconds since 1970: when to try
    strangers INTEGER NOT NULL DEFAULT 0    -- attempts since it was told last that met devices or admins of which nobody told it
) STRICT;

-- This user's devices that were told of a group, or have to be told again.
CREATE TABLE told_devices (
    group_id BLOB NOT NULL,
    client_key BLOB NOT NULL,
    told INTEGER NOT NULL,              -- 1 once it was; 0: not yet, or others came since; 2: the user's key became another
    tries INTEGER NOT NULL,             -- how often it could not be told
    due INTEGER NOT NULL,               -- seconds since 1970: when to tell it; if it was told, when that was
    retold INTEGER NOT NULL DEFAULT 0,  -- how often it had to be told again since others came; each makes the next wait longer
    PRIMARY KEY (group_id, client_key)
) STRICT;

-- Removed devices of this user that may be in groups yet, or know the user's keys there.
CREATE TABLE evictions (
    group_id BLOB NOT NULL,
    client_key BLOB NOT NULL,
    generation INTEGER NOT NULL,        -- of the user's key in the group when the device was removed
    attempts INTEGER NOT NULL,          -- that failed; each makes the next wait longer
    refusals INTEGER NOT NULL,          -- attempts that the server refused
    due INTEGER NOT NULL,               -- seconds since 1970: when to try
    PRIMARY KEY (group_id, client_key)
) STRICT;

-- Clients that are no clients of their users any more, in groups where a leaf is one by its link or was, until nobody is
-- in that leaf's place any more. Of each group not more than it has links.
CREATE TABLE outcasts (
    group_id BLOB NOT NULL,
    client_key BLOB NOT NULL,
    user TEXT NOT NULL,                 -- name@domain: whose it was, by the name that this device knows now
    due INTEGER NOT NULL,               -- seconds since 1970: when to remove them, or to look whether somebody did; in a group
                                        -- that this device is out of, not before it comes in again
    failures INTEGER NOT NULL DEFAULT 0, -- attempts since the last look that failed; each makes the next wait longer
    PRIMARY KEY (group_id, client_key)
) STRICT;

-- Places of users that removed devices were in, and of which this device does not know whether somebody else is in them,
-- as the last look showed it.
CREATE TABLE doubted_places (
    group_id BLOB NOT NULL,
    pseudonym BLOB NOT NULL,            -- the user's
    since INTEGER NOT NULL,             -- seconds since 1970: the first look that showed it
    grown INTEGER NOT NULL,             -- seconds since 1970: the look that showed the last leaf which came in
    leaves BLOB NOT NULL,               -- the keys of the leaves in it: CBOR
    PRIMARY KEY (group_id, pseudonym)
) STRICT;

-- Attributes of leaves that came with a Welcome, until the key that opens them was told.
CREATE TABLE cards (
    group_id BLOB NOT NULL,
    leaf_key BLOB NOT NULL,
    sealed BLOB NOT NULL,
    PRIMARY KEY (group_id, leaf_key)
) STRICT;

-- The MLS state of the place in a group that this device left to come into another, as openmls has it, until what was
-- said there meanwhile was read.
CREATE TABLE left_places (
    group_id BLOB NOT NULL,
    epoch INTEGER NOT NULL,             -- the last one there
    provider_version INTEGER NOT NULL,
    data_type TEXT NOT NULL,
    group_data BLOB NOT NULL,
    PRIMARY KEY (group_id, data_type)
) STRICT;

-- Members that a commit removed, for as long as what they said before opens: it may come later.
CREATE TABLE removed_members (
    group_id BLOB NOT NULL,
    leaf INTEGER NOT NULL,              -- its place in the tree
    epoch INTEGER NOT NULL,             -- the last one that it was in
    pseudonym BLOB NOT NULL,
    leaf_key BLOB NOT NULL,
    is_own INTEGER NOT NULL,            -- 1: the commit was this device's, and what they said counts; 0: another one's
    PRIMARY KEY (group_id, leaf, epoch)
) STRICT;

-- Users of members that say to have another name, or to end, until the AS was asked.
CREATE TABLE member_news (
    user TEXT PRIMARY KEY,              -- as this device knows it
    name TEXT,                          -- the new name; null: its account ends
    tried INTEGER NOT NULL,             -- how often the AS answered, and showed nothing of it
    unreached INTEGER NOT NULL DEFAULT 0, -- how often it was out of reach since then
    absent INTEGER,                     -- seconds since 1970: since when the AS knows nobody of the name; null: it knows one
    due INTEGER NOT NULL                -- seconds since 1970: when to ask
) STRICT;

-- Users of members that the AS does not show any more. Each is in eids, and goes with it.
CREATE TABLE gone_members (
    user TEXT PRIMARY KEY,
    told INTEGER NOT NULL,              -- what groups were told: 0 nothing; 1 the end that a device of the user had announced;
                                        -- 2 that nobody is shown, and no device said why
    since INTEGER NOT NULL,             -- seconds since 1970: since when the AS shows nobody
    due INTEGER NOT NULL                -- seconds since 1970: when to look again
) STRICT;
