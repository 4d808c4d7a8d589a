
-- Messages and events of groups that can be read again, the last ones of each.
CREATE TABLE history (
    group_id BLOB NOT NULL,             -- the MLS group id
    number INTEGER NOT NULL,            -- of the event in its group, from 1; some are left out
    time INTEGER NOT NULL,              -- seconds since 1970, when this device got it
    event TEXT NOT NULL,                -- an Event in JSON
    PRIMARY KEY (group_id, number)
) STRICT, WITHOUT ROWID;

-- Groups of which nothing is kept.
CREATE TABLE history_off (group_id BLOB PRIMARY KEY) STRICT;
