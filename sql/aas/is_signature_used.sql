-- aas.is_signature_used: tells whether a signature was used lately (aas.use_signature).
--
--   digest: digest of the signature
--
-- Called by functions whose requests cost no token, before they look at anything else: what a repeat asked for may be
-- gone by now.
CREATE OR REPLACE FUNCTION aas.is_signature_used(digest bytea) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM aas.used_signatures u WHERE u.digest = is_signature_used.digest)
$$;
