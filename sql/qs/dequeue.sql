-- qs.dequeue: acknowledges the messages that the owner of a queue has, and returns the next ones (QS-4).
--
--   issuer_key, nonce: the token that pays
--   after: the last sequence number that the owner has; everything up to it is deleted, unless a delivery has the queue
--     locked
--
-- The other arguments are as in qs.next_messages.
-- Returns what qs.next_messages does, or with empty arrays token_spent; after_too_large: a number that was never given
-- out, so nothing is deleted.
-- Called by POST /qs/queues/{queue_id}/dequeue, once per request.
CREATE OR REPLACE FUNCTION qs.dequeue(
    issuer_key smallint, nonce bytea,
    queue_id bytea, signer bytea, after bigint, max_messages integer, max_bytes integer,
    OUT outcome qs.dequeue_outcome, OUT seqs bigint[], OUT chains bigint[], OUT chain_indexes integer[],
    OUT chain_headers bytea[], OUT ciphertexts bytea[], OUT expired_up_to bigint, OUT restored_up_to bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
    queue record;
BEGIN
    seqs := '{}'; chains := '{}'; chain_indexes := '{}'; chain_headers := '{}'; ciphertexts := '{}';
    IF NOT aas.spend_token('qs.dequeue', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;

    SELECT q.next_seq, q.acked_seq, q.last_active INTO queue
      FROM qs.queues q
     WHERE q.queue_id = dequeue.queue_id AND q.owner_key = signer;
    IF NOT FOUND THEN
        outcome := 'unknown_queue';
        RETURN;
    END IF;
    -- The row needs no lock: numbers only grow, so a check that holds now still holds after a delivery commits.
    IF after >= queue.next_seq THEN
        outcome := 'after_too_large';
        RETURN;
    END IF;

    -- Deliveries lock the row, so a look that changes nothing leaves it alone, and one that finds it locked does not wait:
    -- the owner's next request acknowledges the same and more.
    IF after > queue.acked_seq OR today > queue.last_active THEN
        PERFORM FROM qs.queues q WHERE q.queue_id = dequeue.queue_id FOR NO KEY UPDATE SKIP LOCKED;
        IF FOUND THEN
            UPDATE qs.queues q
               SET acked_seq = greatest(q.acked_seq, after), last_active = greatest(q.last_active, today),
                   skipped = qs.count_skipped(q.queue_id, greatest(q.acked_seq, q.expired_seq, after), q.next_seq, q.skipped),
                   waiting_bytes = greatest(0, q.waiting_bytes - (
                       SELECT coalesce(sum(octet_length(m.ciphertext)), 0)
                         FROM qs.messages m
                        WHERE m.queue_id = dequeue.queue_id
                          AND m.seq > greatest(q.acked_seq, q.expired_seq) AND m.seq <= after))
             WHERE q.queue_id = dequeue.queue_id;
            DELETE FROM qs.messages m
             WHERE m.queue_id = dequeue.queue_id AND m.seq <= after;
        END IF;
    END IF;

    SELECT n.* INTO outcome, seqs, chains, chain_indexes, chain_headers, ciphertexts, expired_up_to, restored_up_to
      FROM qs.next_messages(dequeue.queue_id, signer, after, max_messages, max_bytes) n;
END
$$;
