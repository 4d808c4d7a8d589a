-- qs.count_removed: adds to the day's figures of what was removed unread (QS-8).
--
--   day: UTC
--
-- The other arguments are as the columns of qs.removed.
-- Called by qs.remove_expired, operator.purge_queue and operator.drop_queue.
CREATE OR REPLACE FUNCTION qs.count_removed(
    day date, inactive_queues bigint, their_messages bigint, expired_messages bigint, purged_messages bigint)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF inactive_queues + their_messages + expired_messages + purged_messages > 0 THEN
        INSERT INTO qs.removed AS r (day, inactive_queues, their_messages, expired_messages, purged_messages)
        VALUES (count_removed.day, count_removed.inactive_queues, count_removed.their_messages,
                count_removed.expired_messages, count_removed.purged_messages)
        ON CONFLICT ON CONSTRAINT removed_pkey DO UPDATE
           SET inactive_queues = r.inactive_queues + excluded.inactive_queues,
               their_messages = r.their_messages + excluded.their_messages,
               expired_messages = r.expired_messages + excluded.expired_messages,
               purged_messages = r.purged_messages + excluded.purged_messages;
    END IF;
END
$$;
