-- aas.clean_up: forgets which taker took how many tokens before yesterday (UTC), except for the sum, and the requests
-- of those days; which requests were refused in hours that are over; and the figures of days that are long over.
--
-- Called by each server process hourly.
CREATE OR REPLACE FUNCTION aas.clean_up() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.note_day();
BEGIN
    PERFORM operator.forget_attempts('{token_request}');
    DELETE FROM aas.requests r WHERE r.day < today - 1;
    WITH gone AS (
        DELETE FROM aas.issued i WHERE i.day < today - 1
        RETURNING i.day, i.token_type, i.tokens
    )
    INSERT INTO aas.issued_in_all AS a (day, token_type, tokens)
    SELECT g.day, g.token_type, sum(g.tokens) FROM gone g GROUP BY g.day, g.token_type
    ON CONFLICT ON CONSTRAINT issued_in_all_pkey DO UPDATE SET tokens = a.tokens + excluded.tokens;
    DELETE FROM aas.issued_in_all a USING operator.settings s
     WHERE a.day < today - s.figure_days;
    DELETE FROM aas.token_use u USING operator.settings s
     WHERE u.day < today - s.figure_days;
END
$$;
