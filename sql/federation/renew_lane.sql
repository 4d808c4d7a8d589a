-- federation.renew_lane: begins the numbering of a lane anew, whose row the caller has locked: the first delivery that
-- waits becomes number 1 of a new instance, and whether its homeserver refuses that one, or it breaks connections, is not known.
--
--   domain, lane: of the lane
--
-- Called by federation.compare_lane and federation.put_aside, and when deliveries are dropped.
CREATE OR REPLACE FUNCTION federation.renew_lane(domain text, lane smallint) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    UPDATE federation.outgoing_lanes l
       SET instance = uuid_send(gen_random_uuid()), settled_id = NULL, renewed = operator.today(),
           instance_start = coalesce((SELECT min(o.number) FROM federation.outbox o
                                       WHERE o.domain = renew_lane.domain AND o.lane = renew_lane.lane),
                                     l.next_number) - 1
     WHERE l.domain = renew_lane.domain AND l.lane = renew_lane.lane;
    UPDATE federation.due d
       SET refusals = 0, breaks = 0, broken_since = NULL
     WHERE d.domain = renew_lane.domain AND d.lane = renew_lane.lane AND (d.refusals > 0 OR d.breaks > 0)
$$;
