-- qs.load_application_server_key: returns the key by which push services know this server (QS-10).
--
-- Returns one row, or none before the first key.
-- Called by a server at its start.
CREATE OR REPLACE FUNCTION qs.load_application_server_key()
RETURNS TABLE (public_key bytea, sealed_private_key bytea)
LANGUAGE sql STABLE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.public_key, k.sealed_private_key FROM qs.application_server_keys k
$$;
