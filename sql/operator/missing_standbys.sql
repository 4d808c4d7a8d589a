-- operator.missing_standbys: tells how many more standbys have to stream before a commit is done
-- (synchronous_standby_names). Where that is none, commits go on.
--
-- Called by operator.takes_changes, operator.note_standbys and operator.health.
CREATE OR REPLACE FUNCTION operator.missing_standbys() RETURNS integer
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN pg_is_in_recovery() OR btrim(n.names) = '' OR current_setting('synchronous_commit') IN ('off', 'local') THEN 0
                ELSE greatest(0, coalesce((regexp_match(n.names, '^\s*(?:ANY|FIRST)?\s*(\d+)\s*\(', 'i'))[1]::integer, 1)
                                 - (SELECT count(*)::integer FROM pg_stat_replication r
                                     WHERE r.sync_state IN ('sync', 'quorum') AND r.state <> 'backup')) END
      FROM (SELECT current_setting('synchronous_standby_names')) AS n (names)
$$;
