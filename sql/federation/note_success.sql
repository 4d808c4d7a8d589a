-- federation.note_success: notes the day on which a domain took deliveries: once on each, so that attempts at its lanes do
-- not wait for each other.
--
--   domain: another domain than the home domain
--
-- Called by federation.settle_lane and federation.compare_lane.
CREATE OR REPLACE FUNCTION federation.note_success(domain text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.today();
BEGIN
    IF EXISTS (SELECT FROM federation.neighbours n WHERE n.domain = note_success.domain AND n.last_success >= today) THEN
        RETURN;
    END IF;
    INSERT INTO federation.neighbours AS n (domain, first_success, last_success)
    VALUES (note_success.domain, today, today)
    ON CONFLICT ON CONSTRAINT neighbours_pkey DO UPDATE SET last_success = greatest(n.last_success, excluded.last_success);
END
$$;
