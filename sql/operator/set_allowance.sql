-- operator.set_allowance: sets how many tokens may be taken per day (UTC) (AAS-2).
--
--   tokens: null takes an earlier call back, so that the default holds
--   user_name: of this user, without @domain; or
--   domain: of this federated domain, all its users together; or neither: of each user that has no allowance of its own
--   token_type: of this Privacy Pass token type only, within the whole
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_allowance(
    tokens integer, user_name text DEFAULT NULL, domain text DEFAULT NULL, token_type integer DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_user uuid;
    of_taker uuid;
BEGIN
    IF num_nonnulls(user_name, domain) > 1 THEN
        RAISE EXCEPTION 'an allowance is a user''s or a domain''s, not both';
    END IF;
    IF user_name IS NOT NULL THEN
        of_user := auth.find_user(user_name);
    ELSIF domain IS NULL AND token_type IS NULL THEN
        IF tokens IS NULL THEN
            RAISE EXCEPTION 'the default allowance has to be a number';
        END IF;
        UPDATE aas.settings s SET daily_allowance = tokens;
        RETURN;
    END IF;
    IF num_nonnulls(user_name, domain) = 1 THEN
        INSERT INTO aas.takers (user_id, domain) VALUES (of_user, set_allowance.domain) ON CONFLICT DO NOTHING;
        SELECT t.taker INTO STRICT of_taker FROM aas.takers t
         WHERE t.user_id = of_user OR t.domain = set_allowance.domain;
    END IF;
    IF tokens IS NULL THEN
        DELETE FROM aas.allowances a
         WHERE a.taker IS NOT DISTINCT FROM of_taker AND a.token_type IS NOT DISTINCT FROM set_allowance.token_type;
    ELSE
        INSERT INTO aas.allowances (taker, token_type, tokens)
        VALUES (of_taker, set_allowance.token_type, set_allowance.tokens)
        ON CONFLICT ON CONSTRAINT allowances_taker_token_type_key DO UPDATE SET tokens = excluded.tokens;
    END IF;
END
$$;
