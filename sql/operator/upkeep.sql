-- operator.upkeep: shows whether expired rows are being removed (QS-8): the day (UTC) of the last sweep through all
-- queues, and whether it is finished. A sweep that is behind by more than a day means that no server runs, or that each
-- batch fails: PostgreSQL's log says why.
--
-- Columns of the result (days are UTC):
--
--   swept: day of the last sweep
--   finished: whether it came to its end
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.upkeep()
RETURNS TABLE (swept date, finished boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT w.day, w.position IS NULL FROM qs.sweep w
$$;
