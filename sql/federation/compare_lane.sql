-- federation.compare_lane: ends an attempt that another homeserver refused because its numbering differs: compares its
-- last delivery with what this server knows of the lane.
--
--   domain, lane, holder, instance: of the attempt
--   first: number in this instance of its first delivery
--   last, last_id: number and id of the last delivery that the other homeserver took; 0 and null: it knows no such
--     instance
--
-- Returns settled: it took what waits up to that delivery, which leaves the outbox; same: this server knows the same, so
-- the attempt was an old one; renewed: one of the two databases was restored, or an empty delivery went in the place of one
-- and was not settled, and the numbering begins anew; outdated: it did so meanwhile.
-- Called by the server process that made the attempt.
CREATE OR REPLACE FUNCTION federation.compare_lane(
    domain text, lane smallint, holder bytea, instance bytea, first bigint, last bigint, last_id bytea,
    OUT outcome federation.compare_lane_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known record;
    oldest bigint;
BEGIN
    SELECT l.instance_start + compare_lane.last AS last, l.instance_start, l.next_number, l.settled_id INTO known
      FROM federation.outgoing_lanes l
     WHERE l.domain = compare_lane.domain AND l.lane = compare_lane.lane AND l.instance = compare_lane.instance
       FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'outdated';
    ELSE
        SELECT min(o.number) INTO oldest
          FROM federation.outbox o
         WHERE o.domain = compare_lane.domain AND o.lane = compare_lane.lane;
        IF EXISTS (SELECT FROM federation.outbox o
                    WHERE o.domain = compare_lane.domain AND o.lane = compare_lane.lane
                      AND o.number = known.last AND o.id = compare_lane.last_id) THEN
            PERFORM federation.take_from_lane(compare_lane.domain, compare_lane.lane, known.last);
            UPDATE federation.outgoing_lanes l
               SET settled_id = compare_lane.last_id, is_stranger = false
             WHERE l.domain = compare_lane.domain AND l.lane = compare_lane.lane;
            PERFORM federation.note_success(compare_lane.domain);
            -- The delivery that was refused, or broke connections, is among those that it took.
            UPDATE federation.due d
               SET refusals = 0, breaks = 0, broken_since = NULL
             WHERE d.domain = compare_lane.domain AND d.lane = compare_lane.lane AND (d.refusals > 0 OR d.breaks > 0);
            PERFORM federation.recover(compare_lane.domain);
            outcome := 'settled';
        ELSIF compare_lane.first <> compare_lane.last + 1
              AND known.last = coalesce(oldest, known.next_number) - 1
              AND known.settled_id IS NOT DISTINCT FROM compare_lane.last_id THEN
            outcome := 'same';
        ELSE
            PERFORM federation.renew_lane(compare_lane.domain, compare_lane.lane);
            outcome := 'renewed';
        END IF;
    END IF;
    PERFORM federation.release_lane(compare_lane.domain, compare_lane.lane, compare_lane.holder);
END
$$;
