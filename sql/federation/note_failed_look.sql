-- federation.note_failed_look: notes that a look at the description of another domain's homeserver failed: the next one is
-- due in a minute, and after each further failure in twice the time, up to an hour, or retry_seconds where it is a neighbour
-- (federation.is_proven) or deliveries wait for the domain (federation.find_homeserver).
--
--   domain: another domain than the home domain
--
-- Called by the server process that looked.
CREATE OR REPLACE FUNCTION federation.note_failed_look(domain text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO federation.looks AS l (domain, looked, failures) VALUES (note_failed_look.domain, now(), 1)
    ON CONFLICT ON CONSTRAINT looks_pkey DO UPDATE
       SET (looked, failures) = ROW(excluded.looked, least(l.failures, 30) + 1)
$$;
