-- operator.takes_changes: tells whether what is written to this database is accepted now.
--
-- Returns yes; standby: it is a standby, and takes no changes; commits_wait: commits hang until a synchronous standby
-- is back.
-- Called by each server process at its start, and by /ready.
CREATE OR REPLACE FUNCTION operator.takes_changes(OUT outcome operator.takes_changes_outcome)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN pg_is_in_recovery() THEN 'standby'::operator.takes_changes_outcome
                WHEN operator.missing_standbys() > 0 THEN 'commits_wait'
                ELSE 'yes' END
$$;
