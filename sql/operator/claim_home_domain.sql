-- operator.claim_home_domain: makes a domain this database's home, if it has none yet (OPS-2).
--
--   domain   what the server is configured for, lower case
-- Returns one row: outcome, and the home domain as it is now.
--   claimed    there was none: it is `domain` from now on, for ever
--   same       it was `domain` already
--   different  it is another one
--   invalid    `domain` is not a fully qualified domain name
-- Called by every server process at its start.
CREATE OR REPLACE FUNCTION operator.claim_home_domain(domain text)
RETURNS TABLE (outcome text, home text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    claimed boolean;
BEGIN
    BEGIN
        INSERT INTO operator.home_domain (domain) VALUES (claim_home_domain.domain)
            ON CONFLICT DO NOTHING;
        claimed := FOUND;
    EXCEPTION WHEN check_violation OR not_null_violation THEN
        outcome := 'invalid';
    END;
    SELECT h.domain INTO home FROM operator.home_domain h;
    outcome := COALESCE(outcome,
                        CASE WHEN claimed THEN 'claimed'
                             WHEN home = claim_home_domain.domain THEN 'same'
                             ELSE 'different' END);
    RETURN NEXT;
END
$$;
