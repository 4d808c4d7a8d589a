-- federation.note_slow: notes that a domain takes deliveries, and takes long: attempts at its lanes keep no prompt ones
-- waiting.
--
--   domain: another domain than the home domain
--
-- Called by federation.settle_lane and federation.put_off.
CREATE OR REPLACE FUNCTION federation.note_slow(domain text) RETURNS void
LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO federation.attempts AS a (domain, state, reason, failures, next_try)
    VALUES (note_slow.domain, 'slow', 'it takes long', 0, now())
    ON CONFLICT ON CONSTRAINT attempts_pkey DO UPDATE
       SET (state, reason, failures, next_try, is_heard)
         = ROW(excluded.state, excluded.reason, excluded.failures, excluded.next_try, excluded.is_heard);
    DELETE FROM federation.prompt_homeservers p WHERE p.domain = note_slow.domain;
    UPDATE federation.due d
       SET due = CASE WHEN d.holder IS NULL AND d.standing IN ('failing', 'stranger') AND d.refusals = 0 AND d.breaks = 0
                      THEN now() ELSE d.due END,
           standing = federation.standing(note_slow.domain)
     WHERE (d.domain, d.lane) IN (
           SELECT o.domain, o.lane
             FROM federation.due o
            WHERE o.domain = note_slow.domain AND o.standing IN ('prompt', 'good', 'failing', 'stranger')
              FOR UPDATE SKIP LOCKED)
$$;
