-- operator.reserved_names: lists the names that nobody can register; a name that looks like one of them cannot be
-- registered either.
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.reserved_names() RETURNS TABLE (name text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.name FROM auth.reserved_names r ORDER BY r.name
$$;
