-- qs.next_messages: returns the messages of a queue after a sequence number (QS-4).
--
--   queue_id: 16 bytes
--   signer: Ed25519 key, verified by the caller
--   after: the last sequence number that the owner has
--   max_messages: of the answer
--   max_bytes: of the answer, counting ciphertext; one message is returned however large it is
--
-- Returns ok, or unknown_queue (also for another signer than the owner), and one element per message in each array, in
-- the order of seqs. expired_up_to: the last message after `after` that was deleted unread (QS-8); null if none was.
-- restored_up_to: the number before the first one of the generation that the messages are of, if `after` is of an earlier
-- one and nothing of that is left (QS-12); null otherwise. Messages of one generation are returned at a time.
-- Called by POST /qs/queues/{queue_id}/dequeue for each look after its first (it takes no token and deletes nothing),
-- and by qs.dequeue.
CREATE OR REPLACE FUNCTION qs.next_messages(
    queue_id bytea, signer bytea, after bigint, max_messages integer, max_bytes integer,
    OUT outcome qs.dequeue_outcome, OUT seqs bigint[], OUT chains bigint[], OUT chain_indexes integer[],
    OUT chain_headers bytea[], OUT ciphertexts bytea[], OUT expired_up_to bigint, OUT restored_up_to bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last bigint;
    first bigint;
    first_generation bigint;
BEGIN
    SELECT CASE WHEN q.expired_seq > after THEN q.expired_seq END, q.next_seq - 1 INTO expired_up_to, last
      FROM qs.queues q
     WHERE q.queue_id = next_messages.queue_id AND q.owner_key = signer;
    outcome := CASE WHEN FOUND THEN 'ok'::qs.dequeue_outcome ELSE 'unknown_queue' END;

    -- A number is that of its generation, and 22 bits (operator.begin_generation). Nearly always both are of one.
    IF last >> 22 > after >> 22 THEN
        IF expired_up_to >> 22 > after >> 22 THEN
            first := expired_up_to;
        ELSE
            SELECT coalesce(min(m.seq), last) INTO first
              FROM qs.messages m
             WHERE m.queue_id = next_messages.queue_id AND m.seq > greatest(after, expired_up_to);
        END IF;
        first_generation := first >> 22;
        -- A queue that counted so far by itself has no gap.
        IF first_generation > after >> 22 AND (first = expired_up_to OR first > greatest(after, expired_up_to) + 1) THEN
            restored_up_to := first_generation << 22;
        END IF;
    END IF;

    SELECT coalesce(array_agg(w.seq), '{}'), coalesce(array_agg(w.chain), '{}'),
           coalesce(array_agg(w.chain_index), '{}'), coalesce(array_agg(w.chain_header::bytea), '{}'),
           coalesce(array_agg(w.ciphertext), '{}')
      INTO seqs, chains, chain_indexes, chain_headers, ciphertexts
      FROM (SELECT n.*,
                   sum(octet_length(n.ciphertext)) OVER (ORDER BY n.seq) AS bytes,
                   row_number() OVER (ORDER BY n.seq) AS place
              FROM (SELECT m.seq, m.chain, m.chain_index, m.chain_header, m.ciphertext
                      FROM qs.messages m
                     WHERE m.queue_id = next_messages.queue_id AND m.seq > after
                       AND m.seq < coalesce((first_generation + 1) << 22, 9223372036854775807)
                       AND outcome = 'ok'
                     ORDER BY m.seq
                     LIMIT max_messages) n
             ORDER BY n.seq) w
     WHERE w.bytes <= max_bytes OR w.place = 1;
END
$$;
