-- ds.load_sender_keys: lists the keys with which the DS proposes in groups, the newest first (DS-10). sealed_seed is null
-- for a key that is revoked; replaced is true for all but the one that new groups carry.
--
-- Called by each server process at its start, hourly, and when keys changed.
CREATE OR REPLACE FUNCTION ds.load_sender_keys()
RETURNS TABLE (public_key bytea, sealed_seed bytea, replaced boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.public_key, k.sealed_seed, k.replaced FROM ds.sender_keys k ORDER BY k.number DESC
$$;
