-- operator.root_key: shows the root that certifies the signing keys of this domain's AS (Ed25519, 32 bytes); null if
-- there is none.
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.root_key()
RETURNS bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.root_key FROM auth.key_settings s
$$;
