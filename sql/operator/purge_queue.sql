-- operator.purge_queue: removes all messages that wait in a queue. Its owner is told so as if they had expired; the
-- queue goes on with a new chain.
--
--   queue_id: 16 bytes, as operator.busiest_queues shows it
--
-- Returns the number of messages removed.
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.purge_queue(queue_id bytea) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    purged bigint;
BEGIN
    UPDATE qs.queues q SET expired_seq = q.next_seq - 1, last_chain = q.last_chain + 1, waiting_bytes = 0, skipped = 0
     WHERE q.queue_id = purge_queue.queue_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such queue' USING HINT = 'operator.busiest_queues() lists some.';
    END IF;
    DELETE FROM qs.messages m WHERE m.queue_id = purge_queue.queue_id;
    GET DIAGNOSTICS purged = ROW_COUNT;
    PERFORM qs.count_removed((now() AT TIME ZONE 'UTC')::date, 0, 0, 0, purged);
    RETURN purged;
END
$$;
