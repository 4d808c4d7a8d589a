-- aas.take_allowance: takes tokens from the day's allowance of a client's user (AAS-2).
--
-- client_key: verified by the caller. tokens: how many.
-- Returns granted, used_up (nothing taken), unknown_client. Called by POST
-- /aas/token-request.
CREATE OR REPLACE FUNCTION aas.take_allowance(client_key bytea, tokens integer, OUT outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = aas, pg_temp AS $$
DECLARE
    taker bigint;
    allowance integer;
BEGIN
    SELECT c.user_id, s.daily_allowance INTO taker, allowance
      FROM auth.clients c, aas.settings s
     WHERE c.client_key = take_allowance.client_key;
    IF NOT FOUND THEN
        outcome := 'unknown_client';
        RETURN;
    END IF;
    IF tokens > allowance THEN
        outcome := 'used_up';
        RETURN;
    END IF;
    -- The row's lock makes concurrent takers queue up; each sees what the others took.
    INSERT INTO aas.issued AS i (user_id, day, tokens)
    VALUES (taker, (now() AT TIME ZONE 'UTC')::date, take_allowance.tokens)
    ON CONFLICT ON CONSTRAINT issued_pkey DO UPDATE
       SET tokens = i.tokens + excluded.tokens
     WHERE i.tokens + excluded.tokens <= allowance;
    outcome := CASE WHEN FOUND THEN 'granted' ELSE 'used_up' END;
END
$$;
