-- aas.admit_signer: lets the signer of a token request in before the server computes anything for it, and uses the
-- signature up: the request costs no token, so it is good once (AAS-4).
--
--   signer_key: Ed25519 key, verified by the caller
--   signature: digest of the request's signature
--
-- Returns admitted; unknown_signer: no client, and no homeserver that is trusted; suspended: the operator has suspended
-- the client's user; signature_used.
-- Called by POST /aas/token-request.
CREATE OR REPLACE FUNCTION aas.admit_signer(signer_key bytea, signature bytea, OUT outcome aas.admit_signer_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    signer record;
BEGIN
    SELECT s.user_id, s.domain, s.suspended INTO signer FROM aas.find_signer(signer_key) s;
    IF num_nonnulls(signer.user_id, signer.domain) = 0 THEN
        outcome := 'unknown_signer';
    ELSIF signer.suspended THEN
        outcome := 'suspended';
    ELSIF aas.use_signature(signature) THEN
        outcome := 'admitted';
    ELSE
        outcome := 'signature_used';
    END IF;
END
$$;
