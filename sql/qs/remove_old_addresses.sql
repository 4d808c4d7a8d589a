-- qs.remove_old_addresses: removes addresses that neither their owner nor a delivery used for qs.settings.address_days, one
-- small batch (QS-8): those of queues that are gone, which nothing here joins to them.
--
--   today: the day (UTC) to count from
--
-- Returns whether there may be more: call again.
-- Called by qs.keep_up, and by tests with days to come.
CREATE OR REPLACE FUNCTION qs.remove_old_addresses(today date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off AS $$
DECLARE
    max_removed CONSTANT integer := 2000;
    -- A season is renewed at any of its days, and a client renews in each season in which it is used.
    oldest CONSTANT integer := (SELECT qs.season(today - greatest(s.address_days, s.queue_days + 90))
                                  FROM qs.settings s);
    removed integer;
BEGIN
    -- An address that is in use at this moment is not old.
    DELETE FROM qs.addresses a
     USING (SELECT o.lookup FROM qs.addresses o
             WHERE o.season < oldest
             ORDER BY o.season
             LIMIT max_removed
               FOR UPDATE SKIP LOCKED) gone
     WHERE a.lookup = gone.lookup;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed = max_removed;
END
$$;
