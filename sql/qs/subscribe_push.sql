-- qs.subscribe_push: sets where a queue's pushes go from now on (QS-10).
--
--   issuer_key, nonce: the token that pays
--   queue_id: 16 bytes
--   signer: the owner's Ed25519 key, verified by the caller
--   subscription: 1052 bytes, sealed by the owner; null: nowhere
--
-- Returns subscribed, token_spent; unknown_queue: also for another signer than the owner.
-- Called by PUT /qs/queues/{queue_id}/push-subscription.
CREATE OR REPLACE FUNCTION qs.subscribe_push(
    issuer_key smallint, nonce bytea, queue_id bytea, signer bytea, subscription bytea,
    OUT outcome qs.subscribe_push_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.today();
BEGIN
    IF NOT aas.spend_token('qs.subscribe_push', subscribe_push.issuer_key, subscribe_push.nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;

    -- The queue is locked, so that it is not deleted meanwhile and the subscription left.
    UPDATE qs.queues q
       SET last_active = today
     WHERE q.queue_id = subscribe_push.queue_id AND q.owner_key = signer;
    IF NOT FOUND THEN
        outcome := 'unknown_queue';
        RETURN;
    END IF;
    IF subscription IS NULL THEN
        DELETE FROM qs.push_subscriptions s WHERE s.queue_id = subscribe_push.queue_id;
    ELSE
        INSERT INTO qs.push_subscriptions (queue_id, subscription)
        VALUES (subscribe_push.queue_id, subscribe_push.subscription)
        ON CONFLICT ON CONSTRAINT push_subscriptions_pkey
        DO UPDATE SET subscription = excluded.subscription;
    END IF;
    outcome := 'subscribed';
END
$$;
