-- qs.queues_with_messages: tells which of the queues that somebody waits for have a message (QS-9).
--
--   queue_ids, afters: side by side, the queues and the last sequence number that their owners have
--
-- Returns the places, from 1, of those with a later message. It tells nothing of the message; the right to read it is
-- checked when it is fetched.
-- Called by each server process for its waiting long-polls, many at a time: when it begins to listen, when told that
-- all waiters should look again, and from time to time.
CREATE OR REPLACE FUNCTION qs.queues_with_messages(queue_ids bytea[], afters bigint[]) RETURNS integer[]
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT coalesce(array_agg(w.place::integer), '{}')
              FROM unnest(queue_ids, afters) WITH ORDINALITY AS w (queue_id, after, place)
             CROSS JOIN LATERAL (SELECT FROM qs.messages m
                                  WHERE m.queue_id = w.queue_id AND m.seq > w.after
                                  LIMIT 1) AS m);
END
$$;
