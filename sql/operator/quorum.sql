-- operator.quorum: reads synchronous_standby_names, where it says ANY: for how many standbys a commit waits, and of how
-- many.
--
-- Columns of the result, null where it says something else:
--
--   number: standbys that a commit waits for
--   members: standbys that are named, or stream, if any will do
--
-- Called by operator.standbys and operator.health.
CREATE OR REPLACE FUNCTION operator.quorum(OUT number integer, OUT members integer)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.parts[1]::integer,
           CASE WHEN s.parts[2] LIKE '%*%'
                THEN (SELECT count(*)::integer FROM pg_stat_replication r WHERE r.sync_state = 'quorum')
                ELSE cardinality(string_to_array(s.parts[2], ',')) END
      FROM (SELECT regexp_match(current_setting('synchronous_standby_names'), '^\s*ANY\s+(\d+)\s*\((.*)\)\s*$', 'i')) AS s (parts)
$$;
