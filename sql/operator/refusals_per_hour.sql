-- operator.refusals_per_hour: shows how many token requests of one client are refused in an hour after the
-- server has worked on them, until it takes none in that hour (AAS-8).
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.refusals_per_hour() RETURNS integer
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.refusals_per_hour FROM aas.settings s
$$;
