-- qs.remove_inactive_friendships: removes friendships without a request of their owner for qs.settings.queue_days, with
-- all KeyPackages, one small batch (QS-8).
--
--   today: the day (UTC) to count from
--
-- Returns whether there may be more: call again.
-- Called by qs.keep_up.
CREATE OR REPLACE FUNCTION qs.remove_inactive_friendships(today date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    max_removed CONSTANT integer := 200;
    removed integer;
BEGIN
    -- A friendship that is in use at this moment is not inactive.
    DELETE FROM qs.friendships f
     USING (SELECT i.friendship_id FROM qs.friendships i
             WHERE i.last_active < today - (SELECT s.queue_days FROM qs.settings s WHERE s.singleton)
             LIMIT max_removed
               FOR UPDATE SKIP LOCKED) gone
     WHERE f.friendship_id = gone.friendship_id;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed = max_removed;
END
$$;
