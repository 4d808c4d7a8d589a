-- qs.set_push_policy: sets the least urgency at which a message to each of these addresses is pushed (QS-10).
--
--   issuer_key, nonce: the token that pays
--   queue_id: 16 bytes
--   signer: the owner's Ed25519 key, verified by the caller
--   addresses: 32 bytes each
--   pushes: for each of them the 61 bytes that the owner sealed; null: nothing is pushed
--
-- Returns set, token_spent; unknown_queue: also for another signer than the owner; unknown_address: one of them is not
-- this queue's, and none is changed.
-- Called by POST /qs/queues/{queue_id}/addresses/push.
CREATE OR REPLACE FUNCTION qs.set_push_policy(
    issuer_key smallint, nonce bytea,
    queue_id bytea, signer bytea, addresses bytea[], pushes bytea[],
    OUT outcome qs.set_push_policy_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT aas.spend_token('qs.set_push_policy', set_push_policy.issuer_key, set_push_policy.nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM qs.queues q
                    WHERE q.queue_id = set_push_policy.queue_id AND q.owner_key = signer) THEN
        outcome := 'unknown_queue';
        RETURN;
    END IF;
    IF NOT qs.lock_addresses(addresses, set_push_policy.queue_id) THEN
        outcome := 'unknown_address';
        RETURN;
    END IF;
    UPDATE qs.addresses a
       SET sealed_push = pushes[n.number]
      FROM postern.seal_addresses(addresses, set_push_policy.queue_id)
           WITH ORDINALITY AS n (lookup, sealed_queue_id, number)
     WHERE a.lookup = n.lookup;
    outcome := 'set';
END
$$;
