-- aas.take_allowance: takes tokens from the day's allowance of a client's user (AAS-2), for
-- one token request.
--
--   client_key    verified by the caller
--   digest        of the request: its repeat, after an answer was lost, takes nothing
--   token_types, numbers   how many tokens of which type
-- Returns one row: outcome granted, used_up (nothing taken), unknown_client; and, but for the
-- last, of the allowance that is nearest its end: the whole and the rest, in tokens, and the
-- seconds until the next day begins. Called by POST /aas/token-request.
CREATE OR REPLACE FUNCTION aas.take_allowance(
    client_key bytea, digest bytea, token_types integer[], numbers integer[],
    OUT outcome text, OUT allowance integer, OUT remaining integer, OUT resets_in integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = aas, pg_temp AS $$
DECLARE
    who bigint;
BEGIN
    SELECT c.user_id INTO who FROM auth.clients c WHERE c.client_key = take_allowance.client_key;
    IF NOT FOUND THEN
        outcome := 'unknown_client';
        RETURN;
    END IF;
    INSERT INTO aas.takers (user_id) VALUES (who) ON CONFLICT DO NOTHING;
    SELECT t.outcome, t.allowance, t.remaining, t.resets_in
      INTO outcome, allowance, remaining, resets_in
      FROM aas.take((SELECT t.taker FROM aas.takers t WHERE t.user_id = who),
                    take_allowance.digest, token_types, numbers) t;
END
$$;
