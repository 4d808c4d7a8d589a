-- federation.find_due: finds lanes in which something waits and of which that is not known, as after a crash of the
-- database, times that are so far away that a clock was wrong, and lanes that were refused a minute ago: a rule may have
-- changed at that moment.
--
-- Called by each server process every few seconds.
CREATE OR REPLACE FUNCTION federation.find_due() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    farthest CONSTANT timestamptz := now() + (SELECT s.retry_seconds + 60 FROM federation.settings s) * interval '1 second';
BEGIN
    UPDATE federation.attempts a SET next_try = now() WHERE a.next_try > farthest;
    UPDATE federation.due d SET due = now(), holder = NULL WHERE d.due > farthest;
    UPDATE federation.due d
       SET standing = federation.standing(d.domain)
     WHERE (d.domain, d.lane) IN (
           SELECT o.domain, o.lane
             FROM federation.due o
            WHERE o.standing = 'refused' AND o.due <= now()
            ORDER BY o.due
            LIMIT 100
              FOR UPDATE SKIP LOCKED);
    PERFORM federation.note_due(l.domain, l.lane)
       FROM federation.outgoing_lanes l
      WHERE l.waiting > 0
        AND NOT EXISTS (SELECT FROM federation.due d WHERE d.domain = l.domain AND d.lane = l.lane);
END
$$;
