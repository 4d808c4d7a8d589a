-- operator.drop_queued: drops deliveries that wait for a domain, the first of each lane first. Their recipients never
-- get them, and are not told. Senders to the domain wait meanwhile: where there are many, call it again and again, each
-- time in a transaction of its own, until it returns 0.
--
--   domain: another domain than the home domain
--   most: number of them, at most
--
-- Returns their number.
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.drop_queued(domain text, most integer DEFAULT 1000) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    queued_lane smallint;
    batch record;
    dropped bigint := 0::bigint;
BEGIN
    WHILE dropped < drop_queued.most LOOP
        SELECT l.lane INTO queued_lane
          FROM federation.outgoing_lanes l
         WHERE l.domain = drop_queued.domain AND l.waiting > 0
         ORDER BY l.lane
         LIMIT 1
           FOR NO KEY UPDATE;
        EXIT WHEN NOT FOUND;
        SELECT max(n.number) AS up_to, count(*) AS number INTO STRICT batch
          FROM (SELECT o.number
                  FROM federation.outbox o
                 WHERE o.domain = drop_queued.domain AND o.lane = queued_lane
                 ORDER BY o.number
                 LIMIT drop_queued.most - dropped) n;
        PERFORM federation.take_from_lane(drop_queued.domain, queued_lane, batch.up_to);
        PERFORM federation.renew_lane(drop_queued.domain, queued_lane);
        dropped := dropped + batch.number;
    END LOOP;
    RETURN dropped;
END
$$;
