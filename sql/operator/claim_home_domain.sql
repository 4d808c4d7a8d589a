-- operator.claim_home_domain: makes a domain the home domain of this database, if it has none yet (OPS-2).
--
--   domain: as the server is configured, lower case
--
-- Returns one row: home, the home domain as it is now, and outcome:
--   claimed: there was none, and it is this domain from now on, for ever
--   same: it was this domain already
--   different: it is another one
--   invalid: the argument is not a fully qualified domain name
--
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
    SELECT s.home_domain::text INTO home FROM operator.settings s;
    outcome := CASE WHEN wanted IS NULL THEN 'invalid'::operator.claim_home_domain_outcome
                    WHEN claimed THEN 'claimed'
                    WHEN home = wanted THEN 'same'
                    ELSE 'different' END;
    RETURN NEXT;
END
$$;
