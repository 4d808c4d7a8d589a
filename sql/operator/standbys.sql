-- operator.standbys: lists the standbys that stream from this database, and which commits wait for each of them. A
-- standby that not each commit waits for lacks the last moments when it is promoted: tokens that were spent then are
-- good once more, unless operator.begin_generation() follows (AAS-4).
--
-- Columns of the result:
--
--   name: application_name of its connection
--   state: such as streaming
--   waited_for: `each commit`; `some commits` (each waits for so many of several, such as ANY 1 of two: one that is behind
--     lacks what the others have, so that only the one that is furthest is to be promoted); `no commit`
--   behind: seconds by which it is behind; null while nothing is written
--
-- Called by the operator, by monitoring, and by operator.health.
CREATE OR REPLACE FUNCTION operator.standbys()
RETURNS TABLE (name text, state text, waited_for text, behind double precision)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.application_name, r.state,
           CASE WHEN current_setting('synchronous_commit') IN ('off', 'local') THEN 'no commit'
                WHEN r.sync_state = 'sync' OR r.sync_state = 'quorum' AND q.number >= q.members THEN 'each commit'
                WHEN r.sync_state = 'quorum' THEN 'some commits'
                ELSE 'no commit' END,
           extract(epoch FROM r.replay_lag)::double precision
      FROM pg_stat_replication r, operator.quorum() q
     -- Not a base backup that is being taken.
     WHERE r.state <> 'backup'
     ORDER BY r.application_name
$$;
