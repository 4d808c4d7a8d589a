-- aas.load_issuer_keys: the issuer's keys, the newest last. not_before in seconds since
-- 1970. Called when a server starts.
CREATE OR REPLACE FUNCTION aas.load_issuer_keys()
RETURNS TABLE (issuer_key smallint, public_key bytea, sealed_seed bytea, not_before bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = aas, pg_temp AS $$
    SELECT k.issuer_key, k.public_key, k.sealed_seed, extract(epoch FROM k.not_before)::bigint
      FROM aas.issuer_keys k
     ORDER BY k.issuer_key
$$;
