-- aas.use_signature: remembers the signature of a request that spends no token, for as long as it could be fresh.
--
--   digest: digest of the signature, which the caller verified
--
-- Returns false if it was used before.
-- Called for requests that ended with a fault of ours, and by functions whose requests cost no token.
CREATE OR REPLACE FUNCTION aas.use_signature(digest bytea) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO aas.used_signatures (digest) VALUES (use_signature.digest)
    ON CONFLICT ON CONSTRAINT used_signatures_pkey DO NOTHING;
    RETURN FOUND;
END
$$;
