-- federation.note_break: ends an attempt at a lane whose connection broke in the middle, so that there is no answer (FED-4).
-- Where other requests shared the connection, any of them may have broken it: the lane is tried again within a second, and
-- these deliveries have connections of their own. Where the first delivery was alone on it, that counts, since the homeserver
-- answers others: only this lane waits, for seconds at first, and twice as long each time, up to five minutes, or retry_seconds
-- if that is less. Of a domain that never took anything no other lane is due earlier, and its failures count like breaks: an
-- answer costs it nothing.
--
--   domain, lane, holder: of the attempt
--   last_id: id of the last delivery of the attempt
--   is_alone: whether the connection had nothing on it but the first delivery, and the homeserver answered another request on
--     another connection after it broke
--
-- Called by the server process that made the attempt.
CREATE OR REPLACE FUNCTION federation.note_break(domain text, lane smallint, holder bytea, last_id bytea, is_alone boolean)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    longest CONSTANT integer := (SELECT least(300, s.retry_seconds) FROM federation.settings s);
    -- None: it left the outbox meanwhile.
    last_one CONSTANT bigint := coalesce((SELECT o.number FROM federation.outbox o
                                           WHERE o.id = note_break.last_id
                                             AND o.domain = note_break.domain AND o.lane = note_break.lane), 0::bigint);
    failures integer := 0;
BEGIN
    IF NOT is_alone THEN
        UPDATE federation.due d
           SET apart_to = greatest(d.apart_to, last_one), holder = NULL, due = now() + random() * interval '1 second'
         WHERE d.domain = note_break.domain AND d.lane = note_break.lane AND d.holder = note_break.holder;
        RETURN;
    END IF;
    IF federation.standing(note_break.domain) = 'stranger' THEN
        failures := coalesce((SELECT a.failures FROM federation.attempts a WHERE a.domain = note_break.domain), 0);
    ELSIF EXISTS (SELECT FROM federation.due d
                   WHERE d.domain = note_break.domain AND d.lane = note_break.lane AND d.standing IN ('failing', 'stranger'))
          OR EXISTS (SELECT FROM federation.attempts a WHERE a.domain = note_break.domain AND a.state <> 'slow') THEN
        PERFORM federation.recover(note_break.domain);
    END IF;
    UPDATE federation.due d
       SET apart_to = greatest(d.apart_to, last_one), breaks = d.breaks + 1,
           -- A clock may have been ahead.
           broken_since = least(d.broken_since, now()), holder = NULL,
           due = now() + (1 + random()) / 2 * least(2 ^ least(d.breaks + 2 + failures, 30), longest) * interval '1 second'
     WHERE d.domain = note_break.domain AND d.lane = note_break.lane AND d.holder = note_break.holder;
END
$$;
