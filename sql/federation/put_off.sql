-- federation.put_off: ends an attempt at a lane that this server broke off, or lacked something for: that is no failure of
-- the other homeserver, and its standing stays, unless it took long.
--
--   domain, lane, holder: of the attempt
--   is_slow: whether it took long while there was no place for it to take longer: it is tried among slow ones
--   seconds: time within which it is tried again
--
-- Called by the server process that made the attempt.
CREATE OR REPLACE FUNCTION federation.put_off(domain text, lane smallint, holder bytea, is_slow boolean, seconds integer)
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT federation.note_slow(put_off.domain) WHERE put_off.is_slow;
    UPDATE federation.due d
       SET due = now() + random() * put_off.seconds * interval '1 second', holder = NULL
     WHERE d.domain = put_off.domain AND d.lane = put_off.lane AND d.holder = put_off.holder
$$;
