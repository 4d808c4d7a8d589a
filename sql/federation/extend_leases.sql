-- federation.extend_leases: keeps the lanes of attempts that are under way, and the other lanes of domains that are
-- tried by one lane at a time: a process that ends gives them up within seconds.
--
--   holders: ids of the attempts
--   seconds: time from now for which nobody else gets their lanes
--
-- Called by each server process every few seconds while attempts are under way.
CREATE OR REPLACE FUNCTION federation.extend_leases(holders bytea[], seconds integer) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE federation.due d
       SET due = greatest(d.due, now() + extend_leases.seconds * interval '1 second')
     WHERE (d.domain, d.lane) IN (
           SELECT o.domain, o.lane
             FROM federation.due o
            WHERE o.holder = ANY (extend_leases.holders)
               OR o.standing IN ('failing', 'stranger') AND o.holder IS NULL
                  AND o.domain IN (SELECT h.domain FROM federation.due h WHERE h.holder = ANY (extend_leases.holders))
              FOR UPDATE SKIP LOCKED)
$$;
