-- federation.put_off_refill: notes that another domain's issuer gives no more tokens for some time, as it says itself:
-- nobody asks it before, unless the operator does (operator.retry_now). That is refill_seconds at most: an issuer whose
-- clock is wrong for one answer would else have everything that waits for its domain expire.
--
--   domain: another domain than the home domain
--   seconds: from now
--
-- Called by the server process that asked.
CREATE OR REPLACE FUNCTION federation.put_off_refill(domain text, seconds integer) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE federation.refills r
       SET (asked, seconds) = ROW(now(), greatest(r.seconds, least(put_off_refill.seconds,
                                                                 (SELECT s.refill_seconds FROM federation.settings s))))
     WHERE r.domain = put_off_refill.domain
$$;
