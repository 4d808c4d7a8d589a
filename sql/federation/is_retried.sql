-- federation.is_retried: tells whether a server tries a delivery that was set aside again by itself: one that was refused,
-- or too large, on an earlier day, as often as it would have waited days.
--
--   reason, day, retried: as in federation.set_aside
--
-- Called by federation.put_back and federation.retry_refused.
CREATE OR REPLACE FUNCTION federation.is_retried(reason text, day date, retried smallint) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (is_retried.reason LIKE 'refused: %' OR is_retried.reason = 'too large for its homeserver')
           AND is_retried.day < operator.today() AND is_retried.retried < s.outbox_days
      FROM federation.settings s
$$;
