-- federation.release_lane: ends an attempt at a lane, which is due at once if something waits in it.
--
--   domain, lane, holder: of the attempt
--
-- Called by federation.settle_lane and federation.compare_lane.
CREATE OR REPLACE FUNCTION federation.release_lane(domain text, lane smallint, holder bytea) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- A transaction that puts something in has the row of the lane.
    IF (SELECT l.waiting > 0
          FROM federation.outgoing_lanes l
         WHERE l.domain = release_lane.domain AND l.lane = release_lane.lane
           FOR NO KEY UPDATE) THEN
        UPDATE federation.due d
           SET due = now(), holder = NULL
         WHERE d.domain = release_lane.domain AND d.lane = release_lane.lane AND d.holder = release_lane.holder;
    ELSE
        DELETE FROM federation.due d WHERE d.domain = release_lane.domain AND d.lane = release_lane.lane;
    END IF;
END
$$;
