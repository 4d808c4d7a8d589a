-- operator.current_schema_state: shows which release of Postern the schema is of (OPS-6).
--
-- Returns one row: the number of the last migration, the hash of the files of sql/ that were applied last, the release
-- that they belong to, and the release before it, whose servers may go on for now (null: there is none); no row if no
-- `postern migrate` was ever finished.
--
-- Columns of the result:
--
--   migration: number of the last migration
--   functions_hash: SHA-256 of the files of sql/ that were applied last
--   release: release that they belong to
--   previous: release before it, whose servers may go on; null: there is none
--
-- Called by every server process at its start, by `postern check`, by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.current_schema_state()
RETURNS TABLE (migration integer, functions_hash bytea, release text, previous text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.migration, s.functions_hash, s.release, s.previous FROM operator.schema_state s;
$$;
