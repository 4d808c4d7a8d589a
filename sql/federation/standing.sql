-- federation.standing: the standing of a domain whose lanes are due, as in federation.due, whether this server deals with
-- it or not.
--
--   domain: another domain than the home domain
--
-- Called by functions that note that a lane is due.
CREATE OR REPLACE FUNCTION federation.standing(domain text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN CASE WHEN NOT EXISTS (SELECT FROM federation.neighbours n WHERE n.domain = standing.domain) THEN 'stranger'
                ELSE coalesce(
                    (SELECT CASE a.state WHEN 'slow' THEN 'slow' ELSE 'failing' END
                       FROM federation.attempts a
                      WHERE a.domain = standing.domain),
                    (SELECT 'prompt'
                       FROM federation.prompt_homeservers p
                      WHERE p.domain = standing.domain
                        AND p.noted BETWEEN now() - interval '10 minutes' AND now() + interval '1 minute'),
                    'good') END;
END
$$;
