-- federation.heard: notes that a request of another domain's homeserver came: what waits for it is due, whatever the
-- time of the next attempt is. Whether it answers, too, shows then: one that only asks has no more places than before.
--
--   domain: another domain than the home domain
--
-- Called by qs.receive_deliveries, federation.admit_relay, federation.introduce_server and aas.take_allowance.
CREATE OR REPLACE FUNCTION federation.heard(domain text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- A row that somebody has at this moment is that of an attempt that ends.
    IF EXISTS (SELECT FROM federation.attempts a WHERE a.domain = heard.domain) THEN
        UPDATE federation.attempts a
           SET next_try = now()
         WHERE a.domain IN (SELECT o.domain
                              FROM federation.attempts o
                             WHERE o.domain = heard.domain AND o.state = 'failing' AND o.next_try > now()
                               FOR UPDATE SKIP LOCKED);
    END IF;
    IF EXISTS (SELECT FROM federation.due d WHERE d.domain = heard.domain AND d.standing IN ('failing', 'stranger')) THEN
        UPDATE federation.due d
           SET due = now()
         WHERE (d.domain, d.lane) IN (
               SELECT o.domain, o.lane
                 FROM federation.due o
                WHERE o.domain = heard.domain AND o.standing IN ('failing', 'stranger') AND o.due > now()
                  AND NOT EXISTS (SELECT FROM federation.due h WHERE h.domain = heard.domain AND h.holder IS NOT NULL)
                  FOR UPDATE SKIP LOCKED);
    END IF;
    -- A look that failed a moment ago would fail again.
    DELETE FROM federation.looks l
     WHERE l.domain IN (SELECT o.domain
                          FROM federation.looks o
                         WHERE o.domain = heard.domain AND o.failures > 0
                           AND o.looked NOT BETWEEN now() - interval '10 seconds' AND now() + interval '10 seconds'
                           FOR UPDATE SKIP LOCKED);
END
$$;
