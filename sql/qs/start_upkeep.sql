-- qs.start_upkeep: starts the extension's upkeep worker, if there is anything to do today (QS-8).
--
-- Returns done: nothing is left to do today (UTC); started: a worker is on its way, and ends by itself, at once if
-- another is at it; no_worker: PostgreSQL has none to spare.
-- Called by each server process at its start and every few minutes.
CREATE OR REPLACE FUNCTION qs.start_upkeep(OUT outcome qs.start_upkeep_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.note_day();
BEGIN
    outcome := CASE
        WHEN EXISTS (SELECT FROM qs.sweep w
                      WHERE (w.day, w.scrub_day) = (today, today)
                        AND w.position IS NULL AND w.scrub_block IS NULL) THEN 'done'::qs.start_upkeep_outcome
        WHEN postern.start_upkeep() THEN 'started'
        ELSE 'no_worker' END;
END
$$;
