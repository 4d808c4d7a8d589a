-- qs.load_application_server_keys: lists the keys by which push services know this server, the newest first (QS-10).
-- replaced is true for all but the one that is published.
--
-- Called by each server process that sends pushes, at its start, hourly, and when keys changed.
CREATE OR REPLACE FUNCTION qs.load_application_server_keys()
RETURNS TABLE (public_key bytea, sealed_private_key bytea, replaced boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.public_key, k.sealed_private_key, k.replaced FROM qs.application_server_keys k ORDER BY k.number DESC
$$;
