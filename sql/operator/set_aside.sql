-- operator.set_aside: lists the deliveries that were set aside, by domain, reason and day (UTC): their number, and their
-- bytes.
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.set_aside()
RETURNS TABLE (domain text, reason text, day date, deliveries bigint, bytes bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.domain, s.reason, s.day, count(*), sum(octet_length(s.sealed))
      FROM federation.set_aside s
     GROUP BY s.domain, s.reason, s.day
     ORDER BY s.domain, s.day, s.reason
$$;
