-- federation.load_gateway_keys: lists the keys of the gateway that are valid, the one to use first.
--
-- Called by each server process at its start, hourly, and when keys changed.
CREATE OR REPLACE FUNCTION federation.load_gateway_keys()
RETURNS TABLE (public_key bytea, key_id smallint, sealed_seed bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.public_key, k.key_id, k.sealed_seed
      FROM federation.gateway_keys k
     WHERE k.not_after >= (now() AT TIME ZONE 'UTC')::date
     ORDER BY k.not_after DESC, k.key_id
$$;
