-- federation.drop_aside: drops deliveries of a lane that were set aside.
--
--   domain, lane: of the lane
--   before: day (UTC) before which they were set aside; null: all
--   most: number of them, at most
--
-- Returns their number.
-- Called by federation.expire_deliveries and operator.drop_set_aside.
CREATE OR REPLACE FUNCTION federation.drop_aside(domain text, lane smallint, before date, most integer) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    dropped bigint;
    freed bigint;
BEGIN
    PERFORM FROM federation.outgoing_lanes l
      WHERE l.domain = drop_aside.domain AND l.lane = drop_aside.lane
        FOR NO KEY UPDATE;
    WITH gone AS (
        DELETE FROM federation.set_aside s
         WHERE s.id IN (SELECT o.id
                          FROM federation.set_aside o
                         WHERE o.domain = drop_aside.domain AND o.lane = drop_aside.lane
                           AND (drop_aside.before IS NULL OR o.day < drop_aside.before)
                         LIMIT drop_aside.most)
        RETURNING octet_length(s.sealed) AS bytes
    )
    SELECT count(*), coalesce(sum(g.bytes), 0)::bigint INTO STRICT dropped, freed FROM gone g;
    UPDATE federation.outgoing_lanes l
       SET aside_bytes = greatest(0, l.aside_bytes - freed)
     WHERE l.domain = drop_aside.domain AND l.lane = drop_aside.lane;
    PERFORM federation.count_bytes(drop_aside.domain, -freed);
    RETURN dropped;
END
$$;
