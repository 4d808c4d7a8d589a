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
RETURNS TABLE (outcome operator.claim_home_domain_outcome, home text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted operator.domain_name;
    claimed boolean := false;
BEGIN
    BEGIN
        wanted := claim_home_domain.domain;
    EXCEPTION WHEN check_violation THEN
        NULL;
    END;
    IF wanted IS NOT NULL THEN
        UPDATE operator.settings s SET home_domain = wanted WHERE s.home_domain IS NULL;
        claimed := FOUND;
    END IF;
    SELECT s.home_domain INTO home FROM operator.settings s;
    outcome := CASE WHEN wanted IS NULL THEN 'invalid'
                    WHEN claimed THEN 'claimed'
                    WHEN home = wanted THEN 'same'
                    ELSE 'different' END;
    RETURN NEXT;
END
$$;
