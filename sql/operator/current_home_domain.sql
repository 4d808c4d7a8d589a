-- operator.current_home_domain: returns the home domain of this database (OPS-2); null if none was claimed yet.
--
-- Called by `postern check`.
CREATE OR REPLACE FUNCTION operator.current_home_domain()
RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.home_domain FROM operator.settings s;
$$;
