-- aas.clean_up: forgets which taker took how many tokens before yesterday (UTC), except for the sum, and the requests
-- of those days; and which requests were refused in hours that are over.
--
-- Called by each server process hourly.
CREATE OR REPLACE FUNCTION aas.clean_up() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT operator.forget_attempts('{token_request}');
    DELETE FROM aas.requests r WHERE r.day < (now() AT TIME ZONE 'UTC')::date - 1;
    WITH gone AS (
        DELETE FROM aas.issued i WHERE i.day < (now() AT TIME ZONE 'UTC')::date - 1
        RETURNING i.day, i.token_type, i.tokens
    )
    INSERT INTO aas.issued_in_all AS a (day, token_type, tokens)
    SELECT g.day, g.token_type, sum(g.tokens) FROM gone g GROUP BY g.day, g.token_type
    ON CONFLICT ON CONSTRAINT issued_in_all_pkey DO UPDATE SET tokens = a.tokens + excluded.tokens;
$$;
