-- qs.revoke_addresses: revokes addresses: they lead nowhere from now on (QS-7). Revoking the address that a group has
-- is blocking that group.
--
--   issuer_key, nonce: the token that pays
--   queue_id: 16 bytes
--   signer: Ed25519 key, verified by the caller
--   addresses: 32 bytes each
--
-- Returns revoked, token_spent; unknown_queue: also for another signer than the owner; unknown_address: one of them is
-- not this queue's, or was revoked before, and none is revoked.
-- Called by POST /qs/queues/{queue_id}/addresses/revoke.
CREATE OR REPLACE FUNCTION qs.revoke_addresses(
    issuer_key smallint, nonce bytea,
    queue_id bytea, signer bytea, addresses bytea[],
    OUT outcome qs.revoke_addresses_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.today();
    known boolean;
    gone integer;
    gone_last_resort integer;
BEGIN
    IF NOT aas.spend_token('qs.revoke_addresses', revoke_addresses.issuer_key, revoke_addresses.nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;

    known := qs.lock_addresses(addresses, revoke_addresses.queue_id);
    PERFORM FROM qs.queues q
      WHERE q.queue_id = revoke_addresses.queue_id AND q.owner_key = revoke_addresses.signer
        FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown_queue';
        RETURN;
    END IF;
    IF NOT known THEN
        outcome := 'unknown_address';
        RETURN;
    END IF;
    WITH revoked AS (
        DELETE FROM qs.addresses a
         USING postern.seal_addresses(addresses, revoke_addresses.queue_id) n
         WHERE a.lookup = n.lookup
        RETURNING a.last_resort
    )
    SELECT count(*)::integer, (count(*) FILTER (WHERE r.last_resort))::integer
      INTO gone, gone_last_resort
      FROM revoked r;
    UPDATE qs.queues q
       SET address_count = q.address_count - gone,
           last_resort_count = q.last_resort_count - gone_last_resort,
           last_active = today
     WHERE q.queue_id = revoke_addresses.queue_id;
    outcome := 'revoked';
END
$$;
