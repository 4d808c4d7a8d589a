-- qs.create_queue: makes a mailbox (QS-1).
--
--   issuer_key, nonce: the token that pays
--   queue_id: 16 random bytes, chosen by the server
--   kind: contact or group
--   owner_key: Ed25519, verified by the caller as the signer's
--   hpke_key: X25519, to which chains are sealed
--
-- Returns created, token_spent, queue_exists.
-- Called by POST /qs/queues.
CREATE OR REPLACE FUNCTION qs.create_queue(
    issuer_key smallint, nonce bytea,
    queue_id bytea, kind text, owner_key bytea, hpke_key bytea,
    OUT outcome qs.create_queue_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.today();
BEGIN
    IF NOT aas.spend_token('qs.create_queue', create_queue.issuer_key, create_queue.nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;

    INSERT INTO qs.queues AS q (queue_id, kind, owner_key, hpke_key, last_active)
    VALUES (create_queue.queue_id, create_queue.kind, create_queue.owner_key,
            create_queue.hpke_key, today)
    ON CONFLICT ON CONSTRAINT queues_pkey DO NOTHING;
    outcome := CASE WHEN FOUND THEN 'created'::qs.create_queue_outcome ELSE 'queue_exists' END;
END
$$;
