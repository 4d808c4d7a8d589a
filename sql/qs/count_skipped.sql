-- qs.count_skipped: counts the numbers of a queue that no message has since a generation began (QS-12), after messages were
-- acknowledged or expired.
--
--   queue_id: 16 bytes; its row is locked by the caller
--   removed: sequence number up to which nothing is left
--   next_seq, skipped: of the queue's row; where none were skipped before, none are
--
-- Called by qs.dequeue and qs.remove_expired.
CREATE OR REPLACE FUNCTION qs.count_skipped(queue_id bytea, removed bigint, next_seq bigint, skipped bigint) RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF skipped = 0 THEN
        RETURN 0::bigint;
    END IF;
    RETURN next_seq - 1 - removed
           - (SELECT count(*) FROM qs.messages m WHERE m.queue_id = count_skipped.queue_id AND m.seq > removed);
END
$$;
