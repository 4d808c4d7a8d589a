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
-- Called by POST /qs/queues/{queue_id}/dequeue for each look after its first (it takes no token and deletes nothing),
-- and by qs.dequeue.
CREATE OR REPLACE FUNCTION qs.next_messages(
    queue_id bytea, signer bytea, after bigint, max_messages integer, max_bytes integer,
    OUT outcome qs.dequeue_outcome, OUT seqs bigint[], OUT chains bigint[], OUT chain_indexes integer[],
    OUT chain_headers bytea[], OUT ciphertexts bytea[], OUT expired_up_to bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT CASE WHEN q.expired_seq > after THEN q.expired_seq END INTO expired_up_to
      FROM qs.queues q
     WHERE q.queue_id = next_messages.queue_id AND q.owner_key = signer;
    outcome := CASE WHEN FOUND THEN 'ok'::qs.dequeue_outcome ELSE 'unknown_queue' END;

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
                       AND outcome = 'ok'
                     ORDER BY m.seq
                     LIMIT max_messages) n
             ORDER BY n.seq) w
     WHERE w.bytes <= max_bytes OR w.place = 1;
END
$$;
