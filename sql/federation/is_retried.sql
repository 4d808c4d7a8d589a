-- federation.is_retried: tells whether a server tries a delivery that was set aside again by itself: one that was refused, on
-- each later day, as often as it would have waited days; one that was too large after a day, two, four and so on, for as long:
-- its homeserver said so in its own words, and each attempt costs tokens; and in the same way one that breaks its connections,
-- unless that happened when it was tried again (federation.settle_lane).
--
--   reason, day, retried: as in federation.set_aside
--
-- Called by federation.put_back and federation.retry_refused.
CREATE OR REPLACE FUNCTION federation.is_retried(reason text, day date, retried smallint) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
               WHEN is_retried.reason LIKE 'refused: %'
                   THEN is_retried.day < operator.today() AND is_retried.retried < s.outbox_days
               WHEN is_retried.reason IN ('too large for its homeserver', 'breaks the connection')
                   THEN operator.today() - is_retried.day >= w.days AND w.days <= s.outbox_days
               ELSE false
           END
      FROM federation.settings s
     -- Nothing waits for so long that more would count.
     CROSS JOIN LATERAL (SELECT power(2, least(is_retried.retried, 20))::integer AS days) w
$$;
