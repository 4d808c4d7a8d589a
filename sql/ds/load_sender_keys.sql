-- ds.load_sender_keys: lists the keys with which the DS proposes in groups, the newest first (DS-10).
--
-- Called by a server at its start.
CREATE OR REPLACE FUNCTION ds.load_sender_keys()
RETURNS TABLE (public_key bytea, sealed_seed bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.public_key, k.sealed_seed FROM ds.sender_keys k ORDER BY k.number DESC
$$;
