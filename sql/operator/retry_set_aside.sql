-- operator.retry_set_aside: puts deliveries for a domain that were set aside into the outbox again, in the order of
-- each lane, behind what waits there. Where there are many, call it again and again, each time in a transaction of its
-- own, until it returns 0.
--
--   domain: another domain than the home domain
--   most: number of them, at most
--
-- Returns the number of those that were put in.
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.retry_set_aside(domain text, most integer DEFAULT 1000) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    aside_lane smallint;
    retried bigint := 0::bigint;
BEGIN
    FOR aside_lane IN
        SELECT DISTINCT s.lane FROM federation.set_aside s WHERE s.domain = retry_set_aside.domain ORDER BY s.lane
    LOOP
        EXIT WHEN retried >= retry_set_aside.most;
        retried := retried
            + federation.put_back(retry_set_aside.domain, aside_lane, retry_set_aside.most - retried, false);
    END LOOP;
    RETURN retried;
END
$$;
