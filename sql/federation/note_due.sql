-- federation.note_due: notes that something waits in a lane, unless that is known. It is due from the second on in which
-- that came, not the moment, which all rows of one transaction would share. Lanes of a family take turns by these times
-- (federation.claim_lane), so it cannot be the minute: a lane with a backlog, due again at the end of each attempt, would let
-- all those go first that begin in the same minute.
--
--   domain, lane: of the lane, whose row the caller has locked
--
-- Called by federation.enqueue, federation.find_due and federation.put_back.
CREATE OR REPLACE FUNCTION federation.note_due(domain text, lane smallint) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO federation.due (domain, lane, family, standing, due)
    SELECT note_due.domain, note_due.lane, federation.share(note_due.domain), federation.standing(note_due.domain),
           coalesce(a.next_try, date_trunc('second', now()))
      FROM (SELECT) one
      LEFT JOIN federation.attempts a ON a.domain = note_due.domain
    ON CONFLICT ON CONSTRAINT due_pkey DO NOTHING;
END
$$;
