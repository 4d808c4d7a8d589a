-- federation.end_refill: ends a request for tokens of another domain's issuer that failed by no decision of that one:
-- it may be asked again from now on.
--
--   domain: another domain than the home domain
--
-- Called by the server process that asked.
CREATE OR REPLACE FUNCTION federation.end_refill(domain text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM federation.refills r WHERE r.domain = end_refill.domain
$$;
