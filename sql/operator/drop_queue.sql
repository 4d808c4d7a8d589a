-- operator.drop_queue: removes a queue with everything in it. Its owner is told that there is none; senders are told
-- that it is gone.
--
--   queue_id: 16 bytes, as operator.busiest_queues shows it
--
-- Returns the number of messages that went with it.
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.drop_queue(queue_id bytea) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone record;
BEGIN
    PERFORM FROM qs.queues q WHERE q.queue_id = drop_queue.queue_id FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such queue' USING HINT = 'operator.busiest_queues() lists some.';
    END IF;
    SELECT * INTO gone FROM qs.drop_queues(ARRAY[drop_queue.queue_id]);
    PERFORM qs.count_removed((now() AT TIME ZONE 'UTC')::date, 0, 0, 0, gone.messages);
    RETURN gone.messages;
END
$$;
