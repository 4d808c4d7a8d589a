-- qs.load_stocks: lists the keys of a friendship's stocks as they are sealed under its token.
--
--   lookup: of the friendship token, 32 bytes
--   signer: Ed25519 key, verified by the caller
--
-- Returns a row per stock of the friendship; none for another signer than its owner.
-- Called by POST /qs/key-packages/rotate, before qs.rotate_friendship_token.
CREATE OR REPLACE FUNCTION qs.load_stocks(lookup bytea, signer bytea)
RETURNS TABLE (stock_id bytea, sealed_key bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.stock_id, s.sealed_key
      FROM qs.friendships f JOIN qs.stocks s ON s.friendship_id = f.friendship_id
     WHERE f.lookup = load_stocks.lookup AND f.owner_key = load_stocks.signer
     ORDER BY s.stock_id
$$;
