-- aas.take_allowance: takes tokens from the day's allowance (UTC) of the signer of a token request: of a client's user,
-- or of a homeserver's domain (AAS-2).
--
--   signer_key: Ed25519 key, verified by the caller
--   digest: SHA-256 of the request: its repeat, after an answer was lost, takes nothing
--   token_types, numbers: how many tokens of which type
--
-- Returns granted; used_up: nothing was taken; unknown_signer: no client, and no homeserver that is trusted; blocked:
-- the operator does not let this server deal with the homeserver's domain; suspended: the operator has suspended the
-- client's user. With the first two, of the allowance that is nearest its end: allowance and remaining (tokens), and
-- resets_in (seconds until the next day begins).
-- Called by POST /aas/token-request, after aas.admit_signer.
CREATE OR REPLACE FUNCTION aas.take_allowance(
    signer_key bytea, digest bytea, token_types integer[], numbers integer[],
    OUT outcome aas.take_allowance_outcome, OUT allowance integer, OUT remaining integer, OUT resets_in integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_user uuid;
    of_domain text;
    is_suspended boolean;
    is_blocked boolean;
BEGIN
    SELECT s.user_id, s.domain, s.suspended, s.blocked
      INTO of_user, of_domain, is_suspended, is_blocked
      FROM aas.find_signer(signer_key) s;
    IF num_nonnulls(of_user, of_domain) = 0 THEN
        outcome := 'unknown_signer';
        RETURN;
    ELSIF is_blocked THEN
        outcome := 'blocked';
        RETURN;
    ELSIF is_suspended THEN
        outcome := 'suspended';
        RETURN;
    END IF;
    -- An account that is erased at this moment takes nothing.
    PERFORM FROM auth.users u WHERE u.user_id = of_user FOR KEY SHARE;
    IF NOT FOUND AND of_domain IS NULL THEN
        outcome := 'unknown_signer';
        RETURN;
    END IF;
    IF of_domain IS NOT NULL THEN
        PERFORM federation.heard(of_domain);
    END IF;
    INSERT INTO aas.takers (user_id, domain) VALUES (of_user, of_domain) ON CONFLICT DO NOTHING;
    SELECT t.outcome, t.allowance, t.remaining, t.resets_in
      INTO outcome, allowance, remaining, resets_in
      FROM aas.take((SELECT t.taker FROM aas.takers t WHERE t.user_id = of_user OR t.domain = of_domain),
                    take_allowance.digest, token_types, numbers) t;
END
$$;
