-- operator.current_schema_state: shows which version of Postern the schema is of.
--
-- Returns one row: the number of the last migration, and the hash of the files of sql/ that were applied last; no row
-- if no `postern migrate` was ever finished.
-- Called by every server process at its start, and by `postern check`.
CREATE OR REPLACE FUNCTION operator.current_schema_state()
RETURNS TABLE (migration integer, functions_hash bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.migration, s.functions_hash FROM operator.schema_state s;
$$;
