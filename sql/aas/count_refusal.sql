-- aas.count_refusal: counts a token request that was refused after the server had worked on it (AAS-8).
--
--   source: HMAC of the signer's key (32 bytes)
--
-- Called by POST /aas/token-request, after aas.admit_signer.
CREATE OR REPLACE FUNCTION aas.count_refusal(source bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM operator.count_attempt(
        'token_request', count_refusal.source, floor(extract(epoch FROM now()) / 3600)::integer, s.refusals_per_hour)
       FROM aas.settings s;
END
$$;
