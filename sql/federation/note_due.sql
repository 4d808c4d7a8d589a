-- federation.note_due: notes that something waits in a lane, unless that is known.
--
--   domain, lane: of the lane, whose row the caller has locked
--
-- Called by federation.enqueue, federation.find_due and federation.put_back.
CREATE OR REPLACE FUNCTION federation.note_due(domain text, lane smallint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO federation.due (domain, lane, family, standing, due)
    SELECT note_due.domain, note_due.lane, federation.share(note_due.domain), federation.standing(note_due.domain),
           coalesce(a.next_try, now())
      FROM (SELECT) one
      LEFT JOIN federation.attempts a ON a.domain = note_due.domain
    ON CONFLICT ON CONSTRAINT due_pkey DO NOTHING;
END
$$;
