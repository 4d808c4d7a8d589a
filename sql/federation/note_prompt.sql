-- federation.note_prompt: notes that a domain took deliveries without taking long: once a minute, so that attempts at its
-- lanes do not wait for each other.
--
--   domain: another domain than the home domain
--
-- Called by federation.settle_lane.
CREATE OR REPLACE FUNCTION federation.note_prompt(domain text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM federation.prompt_homeservers p
                    WHERE p.domain = note_prompt.domain AND p.noted BETWEEN now() - interval '1 minute' AND now()) THEN
        INSERT INTO federation.prompt_homeservers AS p (domain, noted)
        VALUES (note_prompt.domain, date_trunc('minute', now()))
        ON CONFLICT ON CONSTRAINT prompt_homeservers_pkey DO UPDATE SET noted = excluded.noted;
    END IF;
    UPDATE federation.due d
       SET standing = federation.standing(note_prompt.domain)
     WHERE (d.domain, d.lane) IN (
           SELECT o.domain, o.lane
             FROM federation.due o
            WHERE o.domain = note_prompt.domain AND o.standing = 'good'
              FOR UPDATE SKIP LOCKED);
END
$$;
