-- aas.admit_signer: lets the signer of a token request in before the server computes anything for it, and uses the
-- signature up: the request costs no token, so it is good once (AAS-4).
--
--   signer_key: Ed25519 key, verified by the caller
--   signature: digest of the request's signature
--   source: HMAC of the signer's key (32 bytes)
--
-- Returns admitted; unknown_signer: no client, and no homeserver that is trusted; blocked: the operator does not let
-- this server deal with the homeserver's domain; suspended: the operator has suspended the client's user;
-- signature_used; refused_too_often: so many requests of the signer were refused in this hour that no more are taken,
-- with allowance, their number, and resets_in, the seconds until the next hour begins. domain: the other domain that the
-- signer acts for, if it is a homeserver, whose refused requests take from its allowance and are not counted.
-- Called by POST /aas/token-request.
CREATE OR REPLACE FUNCTION aas.admit_signer(
    signer_key bytea, signature bytea, source bytea,
    OUT outcome aas.admit_signer_outcome, OUT allowance integer, OUT resets_in integer, OUT domain text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seconds CONSTANT bigint := floor(extract(epoch FROM now()))::bigint;
    signer record;
BEGIN
    SELECT s.refusals_per_hour INTO allowance FROM aas.settings s;
    resets_in := 3600 - (seconds % 3600)::integer;
    SELECT s.user_id, s.domain, s.suspended, s.blocked INTO signer FROM aas.find_signer(signer_key) s;
    domain := signer.domain;
    IF num_nonnulls(signer.user_id, signer.domain) = 0 THEN
        outcome := 'unknown_signer';
    ELSIF signer.blocked THEN
        outcome := 'blocked';
    ELSIF signer.suspended THEN
        outcome := 'suspended';
    ELSIF EXISTS (SELECT FROM operator.attempts a
                   WHERE a.kind = 'token_request' AND a.source = admit_signer.source
                     AND a.hour = (seconds / 3600)::integer AND a.attempts >= admit_signer.allowance)
    THEN
        outcome := 'refused_too_often';
    ELSIF aas.use_signature(signature) THEN
        outcome := 'admitted';
    ELSE
        outcome := 'signature_used';
    END IF;
END
$$;
