-- operator.current_generation: shows the generation of this database (QS-12), and whether the operator has to decide about
-- it: the database was restored, recovered or promoted since.
--
-- Returns one row; none if a restore did not come to its end.
--
-- Columns of the result:
--
--   generation: number; 0: nothing was restored yet
--   begun: day (UTC) on which it began; null: with the database
--   undecided: what the operator has to decide about: no (nothing), timeline (the promotion of a standby that commits waited
--     for), recovered (a recovery up to an earlier moment or the newest WAL, or the promotion of another standby) or cluster (a
--     dump was restored, into this cluster or another one, the database was copied, or PostgreSQL upgraded);
--     operator.begin_generation and operator.keep_generation do
--
-- Called by the operator, by every server process at its start and for its description (FED-1), by `postern check`, and by
-- operator.health.
CREATE OR REPLACE FUNCTION operator.current_generation()
RETURNS TABLE (generation bigint, begun date, undecided text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT g.number, g.begun,
           -- A standby has no timeline of its own.
           CASE WHEN coalesce(g.origin = o.now, true) THEN 'no'
                WHEN split_part(g.origin, '/', 1) <> split_part(o.now, '/', 1)
                     OR split_part(g.origin, '/', 3) <> split_part(o.now, '/', 3) THEN 'cluster'
                -- Every timeline since ended as one does that was promoted with everything, because each commit had waited
                -- for it. Once a server has looked at this one, that is known, and waited is about its own standbys.
                WHEN (g.waited OR g.followed = o.now)
                     AND (SELECT bool_and(r.reason = 'no recovery target specified')
                        FROM postern.recoveries() r
                       WHERE r.timeline >= ('x' || split_part(g.origin, '/', 2))::bit(32)::integer) THEN 'timeline'
                ELSE 'recovered' END
      FROM operator.generation g, operator.origin() AS o (now)
$$;
