-- operator.drop_set_aside: drops deliveries for a domain that were set aside. Where there are many, call it again and
-- again, each time in a transaction of its own, until it returns 0.
--
--   domain: another domain than the home domain
--   most: number of them, at most
--
-- Returns their number.
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.drop_set_aside(domain text, most integer DEFAULT 1000) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    aside_lane smallint;
    dropped bigint := 0::bigint;
BEGIN
    WHILE dropped < drop_set_aside.most LOOP
        SELECT s.lane INTO aside_lane
          FROM federation.set_aside s
         WHERE s.domain = drop_set_aside.domain
         ORDER BY s.lane
         LIMIT 1;
        EXIT WHEN NOT FOUND;
        dropped := dropped
            + federation.drop_aside(drop_set_aside.domain, aside_lane, NULL, (drop_set_aside.most - dropped)::integer);
    END LOOP;
    RETURN dropped;
END
$$;
