-- federation.note_failed_attempt: ends an attempt at a lane that failed: nothing for its domain is due until the next one,
-- at a random time within twice the seconds of the failure before, up to retry_seconds (full jitter). When three quarters
-- of max_strangers wait, what waits for one that failed three times is set aside, so that there is room for others. How often
-- the first delivery of the lane broke connections before is counted anew: now others are not answered either.
--
--   domain, holder: of the attempt
--   state: failing or out_of_tokens
--   reason: for the operator; its first 200 characters in ASCII are kept
--
-- Called by the server process that made the attempt.
CREATE OR REPLACE FUNCTION federation.note_failed_attempt(
    domain text, holder bytea, state text, reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    longest CONSTANT integer := (SELECT s.retry_seconds FROM federation.settings s);
    patience CONSTANT integer := 3;
    batch CONSTANT integer := 100;
    standing_now CONSTANT text := federation.standing(note_failed_attempt.domain);
    given_up record;
BEGIN
    IF standing_now = 'stranger'
       AND EXISTS (SELECT FROM federation.attempts a
                    WHERE a.domain = note_failed_attempt.domain AND a.failures >= patience - 1)
       AND (SELECT 4 * count(DISTINCT l.domain) FROM federation.outgoing_lanes l WHERE l.is_stranger AND l.waiting > 0)
           >= (SELECT 3 * s.max_strangers FROM federation.settings s) THEN
        FOR given_up IN
            SELECT l.lane
              FROM federation.outgoing_lanes l
             WHERE l.domain = note_failed_attempt.domain AND l.waiting > 0
             ORDER BY l.lane
               FOR NO KEY UPDATE SKIP LOCKED
        LOOP
            PERFORM federation.put_aside(note_failed_attempt.domain, given_up.lane, NULL, batch, 'no such homeserver');
        END LOOP;
    END IF;
    -- Attempts at other lanes that failed at the same time count once.
    INSERT INTO federation.attempts AS a (domain, state, reason, failures, next_try)
    VALUES (note_failed_attempt.domain, note_failed_attempt.state,
            left(regexp_replace(note_failed_attempt.reason, '[^ -~]', '?', 'g'), 200), 1,
            now() + random() * least(2, longest) * interval '1 second')
    ON CONFLICT ON CONSTRAINT attempts_pkey DO UPDATE
       SET state = excluded.state, reason = excluded.reason, failures = a.failures + 1,
           next_try = now() + random() * least(2 ^ least(a.failures + 1, 30), longest) * interval '1 second'
     WHERE a.next_try <= now();
    DELETE FROM federation.prompt_homeservers p WHERE p.domain = note_failed_attempt.domain;
    IF note_failed_attempt.state = 'failing' THEN
        UPDATE federation.due d
           SET breaks = 0, broken_since = NULL
         WHERE d.domain = note_failed_attempt.domain AND d.holder = note_failed_attempt.holder AND d.breaks > 0;
    END IF;
    UPDATE federation.due d
       SET due = a.next_try, holder = NULL,
           standing = CASE WHEN d.standing = 'refused' THEN 'refused' WHEN standing_now = 'stranger' THEN 'stranger'
                           ELSE 'failing' END
      FROM federation.attempts a
     WHERE a.domain = note_failed_attempt.domain
       AND (d.domain, d.lane) IN (
           SELECT o.domain, o.lane
             FROM federation.due o
            WHERE o.domain = note_failed_attempt.domain
              AND (o.holder IS NULL OR o.holder = note_failed_attempt.holder)
              FOR UPDATE SKIP LOCKED);
END
$$;
