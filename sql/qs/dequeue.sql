-- qs.dequeue: acknowledges what the owner of a queue has, and returns what is next (QS-4).
--
-- issuer_key, nonce: the token that pays. after: the last sequence number the owner has;
-- everything up to it is deleted. The rest as in qs.next_messages.
-- Returns rows as qs.next_messages does; a single row whose seq is null for the outcomes
-- token_spent, unknown_queue, after_too_large (never enqueued; nothing is deleted).
-- Called by GET /qs/queues/{queue_id}/messages, once per request.
CREATE OR REPLACE FUNCTION qs.dequeue(
    issuer_key smallint, nonce bytea,
    queue_id bytea, signer bytea, after bigint, max_messages integer, max_bytes integer)
RETURNS TABLE (
    outcome text, seq bigint, chain bigint, chain_index integer, chain_header bytea, ciphertext bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = qs, pg_temp
-- A plan made while the queue was empty must not read the whole table later.
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
    queue record;
BEGIN
    IF NOT aas.spend_token('qs.dequeue', dequeue.issuer_key, dequeue.nonce) THEN
        outcome := 'token_spent';
        RETURN NEXT;
        RETURN;
    END IF;

    SELECT q.next_seq, q.acked_seq, q.last_active INTO queue
      FROM qs.queues q
     WHERE q.queue_id = dequeue.queue_id AND q.owner_key = dequeue.signer;
    IF NOT FOUND THEN
        outcome := 'unknown_queue';
        RETURN NEXT;
        RETURN;
    END IF;
    -- Numbers are only ever added, so an answer from before a delivery that is just
    -- committing is still right for whoever asks.
    IF after >= queue.next_seq THEN
        outcome := 'after_too_large';
        RETURN NEXT;
        RETURN;
    END IF;

    -- Not on every look: the row is locked by each delivery.
    IF after > queue.acked_seq OR today > queue.last_active THEN
        UPDATE qs.queues q
           SET acked_seq = greatest(q.acked_seq, after), last_active = today
         WHERE q.queue_id = dequeue.queue_id;
        DELETE FROM qs.messages m
         WHERE m.queue_id = dequeue.queue_id AND m.seq <= after;
    END IF;

    RETURN QUERY SELECT * FROM qs.next_messages(
        dequeue.queue_id, dequeue.signer, dequeue.after, dequeue.max_messages, dequeue.max_bytes);
END
$$;
