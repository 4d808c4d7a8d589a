-- federation.has_room: whether a lane of a slow domain can be tried now, beside those at which other attempts are under way, by
-- all processes. So many lanes have the time of their share of the slowest line (postern_protocol, federation/slow_line.rs, which
-- has the same numbers). One whose first delivery is too large for a share is tried alone. While another claim of the domain's
-- lanes is made, or a change of its standing, there is no room: the next look finds it.
--
--   domain, lane: of the lane, whose row in federation.due the caller has locked
--
-- Called by federation.claim_lane.
CREATE OR REPLACE FUNCTION federation.has_room(domain text, lane smallint) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    lanes_at_once CONSTANT integer := 4;
    most_beside CONSTANT integer := 512 * 1024;
BEGIN
    PERFORM FROM federation.attempts a WHERE a.domain = has_room.domain FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND AND EXISTS (SELECT FROM federation.attempts a WHERE a.domain = has_room.domain) THEN
        RETURN false;
    END IF;
    -- The lane itself is one of them.
    RETURN (SELECT count(*) = 1 OR count(*) <= lanes_at_once AND coalesce(max(t.bytes), 0) <= most_beside
              FROM (SELECT (SELECT octet_length(o.sealed)
                              FROM federation.outbox o
                             WHERE o.domain = d.domain AND o.lane = d.lane
                             ORDER BY o.number
                             LIMIT 1) AS bytes
                      FROM federation.due d
                     WHERE d.domain = has_room.domain
                       AND (d.lane = has_room.lane OR d.holder IS NOT NULL AND d.due > now())) t);
END
$$;
