-- federation.take_from_lane: deletes the first deliveries of a lane, whose row the caller has locked.
--
--   domain, lane: of the lane
--   up_to: number of the last one
--
-- Called by federation.settle_lane, federation.compare_lane and federation.put_aside, and when deliveries are dropped.
CREATE OR REPLACE FUNCTION federation.take_from_lane(domain text, lane smallint, up_to bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    taken record;
BEGIN
    WITH gone AS (
        DELETE FROM federation.outbox o
         WHERE o.domain = take_from_lane.domain AND o.lane = take_from_lane.lane AND o.number <= take_from_lane.up_to
        RETURNING octet_length(o.sealed) AS bytes
    )
    SELECT count(*)::integer AS number, coalesce(sum(g.bytes), 0)::bigint AS bytes INTO STRICT taken FROM gone g;
    IF taken.number = 0 THEN
        RETURN;
    END IF;
    UPDATE federation.outgoing_lanes l
       SET waiting = l.waiting - taken.number, waiting_bytes = l.waiting_bytes - taken.bytes
     WHERE l.domain = take_from_lane.domain AND l.lane = take_from_lane.lane;
    PERFORM federation.count_bytes(take_from_lane.domain, -taken.bytes);
END
$$;
