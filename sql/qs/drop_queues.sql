-- qs.drop_queues: deletes queues with everything in them. Their addresses stay, because nothing here tells which ones
-- they are (PRIV-1); they lead nowhere from now on, and go when nobody renews them (qs.remove_old_addresses).
--
--   queue_ids: 16 bytes each; the caller has locked their rows, in the order of their ids
--
-- Returns the number of queues and of messages deleted.
-- Called by qs.delete_queue, qs.remove_expired and operator.drop_queue.
CREATE OR REPLACE FUNCTION qs.drop_queues(queue_ids bytea[], OUT queues bigint, OUT messages bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    PERFORM postern.forget_chain(q.queue_id) FROM unnest(queue_ids) AS q (queue_id);
    DELETE FROM qs.push_subscriptions s WHERE s.queue_id = ANY (queue_ids);
    DELETE FROM qs.messages m WHERE m.queue_id = ANY (queue_ids);
    GET DIAGNOSTICS messages = ROW_COUNT;
    DELETE FROM qs.queues q WHERE q.queue_id = ANY (queue_ids);
    GET DIAGNOSTICS queues = ROW_COUNT;
END
$$;
