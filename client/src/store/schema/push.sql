-- Where a queue's pushes go.
CREATE TABLE push_subscriptions (
    kind TEXT PRIMARY KEY,
    push_key BLOB NOT NULL,             -- that the queue's addresses carry, for good
    subscription BLOB,                  -- sealed under it; null: there is none
    told INTEGER NOT NULL               -- 1 once the QS has it
) STRICT;

-- The least urgency of a group's messages that are pushed, where it is not the usual one; null: none is pushed.
CREATE TABLE push_policies (group_id BLOB PRIMARY KEY, at_least INTEGER) STRICT;

-- The push policy that the QS was told for each address.
CREATE TABLE pushed_addresses (address BLOB PRIMARY KEY, at_least INTEGER) STRICT;
