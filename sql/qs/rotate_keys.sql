-- qs.rotate_keys: gives a queue another owner key, another HPKE key, or both (QS-7).
--
--   issuer_key, nonce: the token that pays
--   queue_id: 16 bytes
--   signer: the owner's Ed25519 key so far, verified by the caller
--   new_owner_key: Ed25519, whose possession the caller verified; null: stays
--   new_hpke_key: X25519, usable; null: stays
--
-- Returns rotated, token_spent; unknown_queue: also for another signer than the owner.
-- Called by POST /qs/queues/{queue_id}/keys.
CREATE OR REPLACE FUNCTION qs.rotate_keys(
    issuer_key smallint, nonce bytea,
    queue_id bytea, signer bytea, new_owner_key bytea, new_hpke_key bytea,
    OUT outcome qs.rotate_keys_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.today();
BEGIN
    IF NOT aas.spend_token('qs.rotate_keys', rotate_keys.issuer_key, rotate_keys.nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;

    -- The present chain is sealed to the old HPKE key. Once its number is not that of the last
    -- chain, the next message starts another.
    UPDATE qs.queues q
       SET owner_key = coalesce(new_owner_key, q.owner_key),
           hpke_key = coalesce(new_hpke_key, q.hpke_key),
           last_chain = q.last_chain + (new_hpke_key IS NOT NULL)::integer,
           last_active = today
     WHERE q.queue_id = rotate_keys.queue_id AND q.owner_key = signer;
    IF NOT FOUND THEN
        outcome := 'unknown_queue';
        RETURN;
    END IF;
    IF new_hpke_key IS NOT NULL THEN
        PERFORM postern.forget_chain(rotate_keys.queue_id);
    END IF;
    outcome := 'rotated';
END
$$;
