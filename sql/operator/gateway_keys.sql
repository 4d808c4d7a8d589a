-- operator.gateway_keys: lists the keys of the gateway (RFC 9458), with the last day (UTC) of validity. The one that is
-- valid for longest is the one to use.
--
-- Columns of the result (days are UTC):
--
--   public_key: for which clients of other domains seal their requests
--   key_id: number by which a request names the key
--   not_after: last day of validity
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.gateway_keys()
RETURNS TABLE (public_key bytea, key_id smallint, not_after date)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.public_key, k.key_id, k.not_after FROM federation.gateway_keys k ORDER BY k.not_after, k.key_id
$$;
