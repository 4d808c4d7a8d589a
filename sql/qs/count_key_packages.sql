-- qs.count_key_packages: counts the KeyPackages that a client has left, so that it knows when to publish again (QS-6).
--
--   issuer_key, nonce: the token that pays
--   lookup: of the friendship token, 32 bytes
--   signer: Ed25519 key, verified by the caller
--   stock_id: 16 bytes
--
-- Returns counted, with remaining: those that can still be handed out, without the last resort (0 for a client that has
-- published nothing); token_spent; unknown_friendship: also for another signer than its owner.
-- Called by POST /qs/key-packages/count.
CREATE OR REPLACE FUNCTION qs.count_key_packages(
    issuer_key smallint, nonce bytea, lookup bytea, signer bytea, stock_id bytea,
    OUT outcome qs.count_key_packages_outcome, OUT remaining integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.today();
    friendship record;
BEGIN
    IF NOT aas.spend_token('qs.count_key_packages', count_key_packages.issuer_key,
                           count_key_packages.nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    SELECT f.friendship_id, f.last_active INTO friendship
      FROM qs.friendships f
     WHERE f.lookup = count_key_packages.lookup AND f.owner_key = signer;
    IF NOT FOUND THEN
        outcome := 'unknown_friendship';
        RETURN;
    END IF;
    IF friendship.last_active < today THEN
        UPDATE qs.friendships f SET last_active = today
         WHERE f.friendship_id = friendship.friendship_id;
    END IF;
    SELECT count(*)::integer INTO remaining
      FROM qs.key_packages k
     WHERE k.friendship_id = friendship.friendship_id
       AND k.stock_id = count_key_packages.stock_id AND NOT k.last_resort
       AND k.expires > qs.key_package_horizon();
    outcome := 'counted';
END
$$;
