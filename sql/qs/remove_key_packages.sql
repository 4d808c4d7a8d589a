-- qs.remove_key_packages: removes a client's stock of KeyPackages, or those of all clients; the friendship goes with
-- the last stock (QS-6, PRIV-3, AS-13).
--
--   issuer_key, nonce: the token that pays
--   lookup: of the friendship token, 32 bytes
--   signer: Ed25519 key, verified by the caller
--   stock_id: 16 bytes; null: all stocks
--
-- Returns removed: also when there was nothing; token_spent; unknown_friendship: also for another signer than its
-- owner.
-- Called by POST /qs/key-packages/remove.
CREATE OR REPLACE FUNCTION qs.remove_key_packages(
    issuer_key smallint, nonce bytea, lookup bytea, signer bytea, stock_id bytea,
    OUT outcome qs.remove_key_packages_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    friendship bytea;
BEGIN
    IF NOT aas.spend_token('qs.remove_key_packages', remove_key_packages.issuer_key,
                           remove_key_packages.nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    SELECT f.friendship_id INTO friendship
      FROM qs.friendships f
     WHERE f.lookup = remove_key_packages.lookup AND f.owner_key = signer
       FOR UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown_friendship';
        RETURN;
    END IF;
    DELETE FROM qs.stocks s
     WHERE s.friendship_id = friendship
       AND (remove_key_packages.stock_id IS NULL OR s.stock_id = remove_key_packages.stock_id);
    DELETE FROM qs.friendships f
     WHERE f.friendship_id = friendship
       AND NOT EXISTS (SELECT FROM qs.stocks s WHERE s.friendship_id = friendship);
    outcome := 'removed';
END
$$;
