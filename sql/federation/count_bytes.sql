-- federation.count_bytes: counts bytes that came into the outbox and to what was set aside, or left them (below 0). It
-- waits for nobody: a row that another transaction has is left to that one.
--
--   domain: another domain than the home domain, for which they are
--   bytes: how many
--
-- Called by federation.enqueue, federation.take_from_lane, federation.settle_lane, federation.put_aside and
-- federation.drop_aside, after they locked the lane.
CREATE OR REPLACE FUNCTION federation.count_bytes(domain text, bytes bigint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_family CONSTANT text := federation.family(count_bytes.domain);
    free uuid;
BEGIN
    IF count_bytes.bytes = 0 THEN
        RETURN;
    END IF;
    SELECT b.part INTO free
      FROM federation.outbox_bytes b
     WHERE b.family = of_family
     LIMIT 1
       FOR NO KEY UPDATE SKIP LOCKED;
    IF FOUND THEN
        UPDATE federation.outbox_bytes b
           SET bytes = b.bytes + count_bytes.bytes
         WHERE b.family = of_family AND b.part = free;
    ELSE
        INSERT INTO federation.outbox_bytes (family, part, bytes) VALUES (of_family, gen_random_uuid(), count_bytes.bytes);
    END IF;
END
$$;
