-- federation.heard: notes that a request of another domain's homeserver came: what waits for it is due, whatever the
-- time of the next attempt is, but for lanes whose first delivery it refuses, or that breaks its connections; and the pauses
-- between attempts begin anew, at seconds: it may have called before its own door was open. Whether it answers, too, shows
-- then: one that only asks has no more places than before. However often it calls, that happens once, and again after so many
-- failures that the pauses have grown for about a minute.
--
--   domain: another domain than the home domain, by whose key the request is signed
--
-- Called by qs.receive_deliveries, federation.admit_relay, federation.introduce_server and aas.take_allowance.
CREATE OR REPLACE FUNCTION federation.heard(domain text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- The pauses before the last of these failures are 63 seconds on average: one, two, four and so on.
    many_failures CONSTANT integer := 7;
    is_due boolean := true;
BEGIN
    -- A row that somebody has at this moment is that of an attempt that ends.
    IF EXISTS (SELECT FROM federation.attempts a WHERE a.domain = heard.domain AND a.state <> 'slow') THEN
        UPDATE federation.attempts a
           SET failures = 0, next_try = least(a.next_try, now()), is_heard = true
         WHERE a.domain IN (SELECT o.domain
                              FROM federation.attempts o
                             WHERE o.domain = heard.domain AND o.state <> 'slow'
                               AND (NOT o.is_heard OR o.failures >= many_failures)
                               FOR UPDATE SKIP LOCKED);
        is_due := FOUND;
    END IF;
    IF is_due
       AND EXISTS (SELECT FROM federation.due d WHERE d.domain = heard.domain AND d.standing IN ('failing', 'stranger')) THEN
        UPDATE federation.due d
           SET due = now()
         WHERE (d.domain, d.lane) IN (
               SELECT o.domain, o.lane
                 FROM federation.due o
                WHERE o.domain = heard.domain AND o.standing IN ('failing', 'stranger') AND o.due > now()
                  AND o.refusals = 0 AND o.breaks = 0
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
