-- federation.put_back: puts deliveries of a lane that were set aside into the outbox again, in their order, behind what
-- waits there.
--
--   domain, lane: of the lane
--   most: number of them, at most
--   is_own: whether a server does so by itself, with those that were refused before this day; else the operator does,
--     with any
--
-- Returns their number.
-- Called by operator.retry_set_aside and federation.retry_refused.
CREATE OR REPLACE FUNCTION federation.put_back(domain text, lane smallint, most bigint, is_own boolean) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.today();
    next_one bigint;
    moved record;
BEGIN
    SELECT l.next_number INTO STRICT next_one
      FROM federation.outgoing_lanes l
     WHERE l.domain = put_back.domain AND l.lane = put_back.lane
       FOR NO KEY UPDATE;
    WITH again AS (
        DELETE FROM federation.set_aside s
         WHERE s.id IN (SELECT o.id
                          FROM federation.set_aside o
                         WHERE o.domain = put_back.domain AND o.lane = put_back.lane
                           AND (NOT is_own OR federation.is_retried(o.reason, o.day, o.retried))
                         ORDER BY o.number
                         LIMIT put_back.most)
        RETURNING s.id, s.number, s.sealed, s.retried, s.reason
    ), numbered AS (
        INSERT INTO federation.outbox (id, domain, lane, number, sealed, day, retried, reason)
        SELECT a.id, put_back.domain, put_back.lane, next_one - 1 + row_number() OVER (ORDER BY a.number), a.sealed, today,
               CASE WHEN is_own THEN a.retried + 1 ELSE 0 END, CASE WHEN is_own THEN a.reason END
          FROM again a
        RETURNING octet_length(sealed) AS bytes
    )
    SELECT count(*) AS number, coalesce(sum(n.bytes), 0) AS bytes INTO STRICT moved FROM numbered n;
    IF moved.number > 0 THEN
        UPDATE federation.outgoing_lanes l
           SET next_number = l.next_number + moved.number, waiting = l.waiting + moved.number,
               waiting_bytes = l.waiting_bytes + moved.bytes, aside_bytes = greatest(0, l.aside_bytes - moved.bytes),
               last_used = today
         WHERE l.domain = put_back.domain AND l.lane = put_back.lane;
        PERFORM federation.note_due(put_back.domain, put_back.lane);
    END IF;
    RETURN moved.number;
END
$$;
