-- operator.set_refusals_per_hour: sets how many token requests of one client are refused in an hour after the
-- server has worked on them, until it takes none in that hour (AAS-8). Takes effect with the next request, on every server.
--
--   number: at least 1
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_refusals_per_hour(number integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM operator.set_limit('aas.settings', 'refusals_per_hour', number);
END
$$;
