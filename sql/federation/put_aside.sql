-- federation.put_aside: sets the first deliveries of a lane aside, whose row the caller has locked: the numbering of the
-- others begins anew.
--
--   domain, lane: of the lane
--   before: day (UTC) before which they were accepted; null: any
--   most: number of them, at most
--   reason: for the operator
--
-- Called by federation.expire_deliveries and federation.note_failed_attempt.
CREATE OR REPLACE FUNCTION federation.put_aside(domain text, lane smallint, before date, most integer, reason text)
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.today();
    put record;
BEGIN
    WITH aside AS (
        INSERT INTO federation.set_aside (id, domain, lane, number, sealed, reason, day, retried)
        SELECT o.id, o.domain, o.lane, o.number, o.sealed, put_aside.reason, today, o.retried
          FROM federation.outbox o
         WHERE o.domain = put_aside.domain AND o.lane = put_aside.lane
           AND (put_aside.before IS NULL
                OR o.day < put_aside.before
                   -- Days do not only grow: one that was put in while a clock was ahead is later than those behind it.
                   AND NOT EXISTS (SELECT FROM federation.outbox e
                                    WHERE e.domain = o.domain AND e.lane = o.lane AND e.number < o.number
                                      AND e.day >= put_aside.before))
         ORDER BY o.number
         LIMIT put_aside.most
        RETURNING number, octet_length(sealed) AS bytes
    )
    SELECT max(a.number) AS up_to, sum(a.bytes) AS bytes INTO STRICT put FROM aside a;
    IF put.up_to IS NULL THEN
        RETURN;
    END IF;
    UPDATE federation.outgoing_lanes l
       SET aside_bytes = l.aside_bytes + put.bytes
     WHERE l.domain = put_aside.domain AND l.lane = put_aside.lane;
    PERFORM federation.count_bytes(put_aside.domain, put.bytes);
    PERFORM federation.take_from_lane(put_aside.domain, put_aside.lane, put.up_to);
    PERFORM federation.renew_lane(put_aside.domain, put_aside.lane);
END
$$;
