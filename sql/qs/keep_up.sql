-- qs.keep_up: does one batch of the day's upkeep: qs.remove_expired and qs.remove_inactive_friendships, then
-- qs.scrub_deleted.
--
-- Returns more: call again; done: nothing is left to do today (UTC); busy: another session is at it.
-- Called by the extension's upkeep worker (pg_extension/src/upkeep.rs) until it is done; where none can be started, by
-- servers.
CREATE OR REPLACE FUNCTION qs.keep_up(OUT outcome qs.keep_up_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    outcome := qs.remove_expired(today);
    IF qs.remove_inactive_friendships(today) THEN
        outcome := 'more';
    ELSIF outcome = 'done' THEN
        outcome := qs.scrub_deleted(today);
    END IF;
END
$$;
