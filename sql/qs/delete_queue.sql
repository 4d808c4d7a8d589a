-- qs.delete_queue: deletes a queue with its messages and the addresses that its owner names (QS-7, PRIV-3).
--
--   issuer_key, nonce: the token that pays
--   queue_id: 16 bytes
--   signer: the owner's Ed25519 key, verified by the caller
--   addresses: those of the queue's that the owner knows, 32 bytes each; others cannot be found from here and go when a
--     message is delivered to them (see postern.deliver), or when nobody renews them (see qs.remove_old_addresses). An address that is not this queue's stays.
--
-- Returns deleted, token_spent; unknown_queue: also for another signer than the owner.
-- Called by POST /qs/queues/{queue_id}/delete.
CREATE OR REPLACE FUNCTION qs.delete_queue(
    issuer_key smallint, nonce bytea,
    queue_id bytea, signer bytea, addresses bytea[],
    OUT outcome qs.delete_queue_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT aas.spend_token('qs.delete_queue', delete_queue.issuer_key, delete_queue.nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;

    PERFORM qs.lock_addresses(addresses, delete_queue.queue_id);
    -- It waits for a delivery under way, whose messages the next statements see.
    PERFORM FROM qs.queues q
      WHERE q.queue_id = delete_queue.queue_id AND q.owner_key = signer
        FOR UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown_queue';
        RETURN;
    END IF;
    PERFORM qs.drop_queues(ARRAY[delete_queue.queue_id]);
    DELETE FROM qs.addresses a
     USING postern.seal_addresses(addresses, delete_queue.queue_id) n
     WHERE a.lookup = n.lookup AND a.sealed_queue_id = n.sealed_queue_id;
    outcome := 'deleted';
END
$$;
