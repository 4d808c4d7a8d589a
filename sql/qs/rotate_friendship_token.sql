-- qs.rotate_friendship_token: gives a friendship another token, by which it is found from now on (QS-6).
--
--   issuer_key, nonce: the token that pays
--   lookup, new_lookup: of the old and the new friendship token, 32 bytes each
--   signer: Ed25519 key, verified by the caller
--   stock_ids, sealed_keys: the keys of its stocks as qs.load_stocks returned them
--   resealed_keys: the same keys under the new token
--
-- Returns rotated, token_spent; unknown_friendship: also for another signer than its owner; not_fresh: the new token is
-- a friendship's already; stale: a stock changed meanwhile, so seal again. Stale spends no token, because it is
-- nobody's fault.
-- Called by POST /qs/key-packages/rotate.
CREATE OR REPLACE FUNCTION qs.rotate_friendship_token(
    issuer_key smallint, nonce bytea, lookup bytea, signer bytea, new_lookup bytea,
    stock_ids bytea[], sealed_keys bytea[], resealed_keys bytea[],
    OUT outcome qs.rotate_friendship_token_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.today();
    friendship bytea;
BEGIN
    SELECT f.friendship_id INTO friendship
      FROM qs.friendships f
     WHERE f.lookup = rotate_friendship_token.lookup AND f.owner_key = signer
       FOR UPDATE;
    IF FOUND AND EXISTS (
        SELECT FROM (SELECT s.stock_id, s.sealed_key FROM qs.stocks s
                      WHERE s.friendship_id = friendship) stored
          FULL JOIN unnest(stock_ids, sealed_keys) AS given (stock_id, sealed_key)
                 ON given.stock_id = stored.stock_id AND given.sealed_key = stored.sealed_key
         WHERE given.stock_id IS NULL OR stored.stock_id IS NULL) THEN
        outcome := 'stale';
        RETURN;
    END IF;
    IF NOT aas.spend_token('qs.rotate_friendship_token', rotate_friendship_token.issuer_key,
                           rotate_friendship_token.nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    IF friendship IS NULL THEN
        outcome := 'unknown_friendship';
        RETURN;
    END IF;
    BEGIN
        UPDATE qs.friendships f SET lookup = new_lookup, last_active = today
         WHERE f.friendship_id = friendship AND f.lookup <> new_lookup;
        IF NOT FOUND THEN
            outcome := 'not_fresh';
            RETURN;
        END IF;
    EXCEPTION WHEN unique_violation THEN
        -- It is another friendship's, and may have become that at this moment.
        outcome := 'not_fresh';
        RETURN;
    END;
    UPDATE qs.stocks s SET sealed_key = r.sealed_key
      FROM unnest(stock_ids, resealed_keys) AS r (stock_id, sealed_key)
     WHERE s.friendship_id = friendship AND s.stock_id = r.stock_id;
    outcome := 'rotated';
END
$$;
