-- What bounds the mailboxes in time and number: expiry of messages and of inactive queues, and
-- the rate of deposits (QS-2, QS-8).

ALTER TABLE qs.settings
    ADD COLUMN message_days integer NOT NULL DEFAULT 30 CHECK (message_days BETWEEN 1 AND 3650),
    ADD COLUMN queue_days integer NOT NULL DEFAULT 90 CHECK (queue_days BETWEEN 1 AND 3650),
    ADD COLUMN deposits_per_day integer NOT NULL DEFAULT 200 CHECK (deposits_per_day > 0);
COMMENT ON COLUMN qs.settings.message_days IS 'Whole days (UTC) that a message waits for its reader; its chain''s other messages may keep it for as long as a chain is used. May change';
COMMENT ON COLUMN qs.settings.queue_days IS 'Whole days (UTC) that a queue is kept without a request of its owner. May change';
COMMENT ON COLUMN qs.settings.deposits_per_day IS 'Deposits a contact queue takes in a day (UTC). May change';

-- The default is for deliveries by a backend that loaded an older library. No index: within a
-- queue, messages are in the order of their days, so the first one tells.
ALTER TABLE qs.messages
    ADD COLUMN enqueued date NOT NULL DEFAULT (now() AT TIME ZONE 'UTC')::date;
COMMENT ON COLUMN qs.messages.enqueued IS 'Day (UTC) on which it came. Never changes';

ALTER TABLE qs.queues
    ADD COLUMN expired_seq bigint NOT NULL DEFAULT 0 CHECK (expired_seq >= 0 AND expired_seq < next_seq),
    ADD COLUMN deposit_day date NOT NULL DEFAULT 'epoch',
    ADD COLUMN deposit_count integer NOT NULL DEFAULT 0 CHECK (deposit_count >= 0);
COMMENT ON COLUMN qs.queues.expired_seq IS 'Messages up to here that were not acknowledged were deleted: they were too old, or the operator purged the queue. Grows';
COMMENT ON COLUMN qs.queues.deposit_day IS 'Day (UTC) of a contact queue''s last deposit; 1970 = none. Grows';
COMMENT ON COLUMN qs.queues.deposit_count IS 'Deposits of that day. Changes';

CREATE TABLE qs.sweep (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    day date NOT NULL DEFAULT 'epoch',
    position bytea
);
COMMENT ON TABLE qs.sweep IS 'How far the removal of what is too old has come: one row. Who removes holds its lock';
COMMENT ON COLUMN qs.sweep.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN qs.sweep.day IS 'Day (UTC) of the last sweep through all queues. Changes';
COMMENT ON COLUMN qs.sweep.position IS 'The queue it looked at last; null = it came to the end. Changes';
INSERT INTO qs.sweep DEFAULT VALUES;

CREATE TABLE qs.removed (
    day date PRIMARY KEY,
    inactive_queues bigint NOT NULL DEFAULT 0,
    their_messages bigint NOT NULL DEFAULT 0,
    expired_messages bigint NOT NULL DEFAULT 0,
    purged_messages bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE qs.removed IS 'How much was removed before its owner read it, a row for each day with some';
COMMENT ON COLUMN qs.removed.day IS 'Day (UTC). Never changes';
COMMENT ON COLUMN qs.removed.inactive_queues IS 'Queues whose owner did not come for qs.settings.queue_days. Grows on that day';
COMMENT ON COLUMN qs.removed.their_messages IS 'Messages that went with them. Grows on that day';
COMMENT ON COLUMN qs.removed.expired_messages IS 'Messages that waited for longer than qs.settings.message_days. Grows on that day';
COMMENT ON COLUMN qs.removed.purged_messages IS 'Messages that the operator removed, with or without their queue. Grows on that day';

-- Both return one column more from now on.
DROP FUNCTION IF EXISTS qs.dequeue(smallint, bytea, bytea, bytea, bigint, integer, integer);
DROP FUNCTION IF EXISTS qs.next_messages(bytea, bytea, bigint, integer, integer);
