-- federation.note_refusal: ends an attempt at a lane whose first delivery its homeserver refused while it answered
-- others: it takes deliveries, so only this lane waits, for a random time within twice the seconds of the refusal
-- before, up to retry_seconds. Of a domain that never took anything no other lane is due earlier, and its failures still count:
-- an answer costs it nothing.
--
--   domain, lane, holder: of the attempt
--
-- Called by the server process that made the attempt.
CREATE OR REPLACE FUNCTION federation.note_refusal(domain text, lane smallint, holder bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    longest CONSTANT integer := (SELECT s.retry_seconds FROM federation.settings s);
BEGIN
    IF federation.standing(note_refusal.domain) <> 'stranger'
       AND (EXISTS (SELECT FROM federation.due d
                     WHERE d.domain = note_refusal.domain AND d.lane = note_refusal.lane
                       AND d.standing IN ('failing', 'stranger'))
            OR EXISTS (SELECT FROM federation.attempts a WHERE a.domain = note_refusal.domain AND a.state <> 'slow')) THEN
        PERFORM federation.recover(note_refusal.domain);
    END IF;
    UPDATE federation.due d
       SET refusals = d.refusals + 1, holder = NULL,
           due = now() + random() * least(2 ^ least(d.refusals + 1, 30), longest) * interval '1 second'
     WHERE d.domain = note_refusal.domain AND d.lane = note_refusal.lane AND d.holder = note_refusal.holder;
END
$$;
