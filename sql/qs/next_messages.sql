-- qs.next_messages: the messages of a queue after a sequence number (QS-4).
--
-- queue_id, signer: whose; signer is the Ed25519 key that the caller verified. after: the
-- last sequence number the owner has. max_messages, max_bytes: bounds of the answer;
-- max_bytes counts ciphertext, and one message is returned however large it is.
-- Returns one row per message with outcome ok, in order; a single row whose seq is null
-- when there is none (outcome ok) or the queue is not the signer's (unknown_queue).
-- Called by GET /qs/queues/{queue_id}/messages for each look after its first (no token,
-- nothing is deleted), and by qs.dequeue.
CREATE OR REPLACE FUNCTION qs.next_messages(
    queue_id bytea, signer bytea, after bigint, max_messages integer, max_bytes integer)
RETURNS TABLE (
    outcome text, seq bigint, chain bigint, chain_index integer, chain_header bytea, ciphertext bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = qs, pg_temp
-- A plan made while the queue was empty must not read the whole table later.
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
BEGIN
    PERFORM FROM qs.queues q
      WHERE q.queue_id = next_messages.queue_id AND q.owner_key = next_messages.signer;
    IF NOT FOUND THEN
        outcome := 'unknown_queue';
        RETURN NEXT;
        RETURN;
    END IF;

    RETURN QUERY
        SELECT 'ok', w.seq, w.chain, w.chain_index, w.chain_header, w.ciphertext
          FROM (SELECT n.*, sum(octet_length(n.ciphertext)) OVER (ORDER BY n.seq) AS bytes,
                       row_number() OVER (ORDER BY n.seq) AS place
                  FROM (SELECT m.*
                          FROM qs.messages m
                         WHERE m.queue_id = next_messages.queue_id AND m.seq > next_messages.after
                         ORDER BY m.seq
                         LIMIT next_messages.max_messages) n) w
         WHERE w.bytes <= next_messages.max_bytes OR w.place = 1
         ORDER BY w.seq;
    IF NOT FOUND THEN
        outcome := 'ok';
        RETURN NEXT;
    END IF;
END
$$;
