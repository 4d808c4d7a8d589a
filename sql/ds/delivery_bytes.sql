-- ds.delivery_bytes: counts the bytes that a delivery takes in all queues here together: each payload once for each
-- address that it goes to. Whatever limits or prices what one request makes the server store asks this function; what
-- waits for other domains has a limit of its own (federation.enqueue).
--
--   parts, payloads: as in postern.deliver
--
-- Called by ds.submit_message and federation.is_too_large.
CREATE OR REPLACE FUNCTION ds.delivery_bytes(parts smallint[], payloads bytea[]) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Most messages are one payload for all.
    IF cardinality(payloads) = 1 THEN
        RETURN octet_length(payloads[1])::bigint * cardinality(parts);
    END IF;
    RETURN coalesce((SELECT sum(p.recipients * octet_length(payloads[p.part]))
                       FROM (SELECT n.part, count(*) AS recipients FROM unnest(parts) AS n (part) GROUP BY n.part) p)::bigint, 0);
END
$$;
