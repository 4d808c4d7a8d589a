-- qs.keep_up: does one batch of the day's upkeep: qs.remove_expired, qs.remove_inactive_friendships and
-- qs.remove_old_addresses, then qs.scrub_deleted. Figures of qs.removed go after operator.settings.figure_days.
--
-- Returns more: call again; done: nothing is left to do today (UTC); busy: another session is at it.
-- Called by the extension's upkeep worker (pg_extension/src/upkeep.rs) until it is done; where none can be started, by
-- servers.
CREATE OR REPLACE FUNCTION qs.keep_up(OUT outcome qs.keep_up_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.note_day();
    are_friendships_left boolean;
    are_addresses_left boolean;
BEGIN
    outcome := qs.remove_expired(today);
    are_friendships_left := qs.remove_inactive_friendships(today);
    are_addresses_left := qs.remove_old_addresses(today);
    IF are_friendships_left OR are_addresses_left THEN
        outcome := 'more';
    ELSIF outcome = 'done' THEN
        DELETE FROM qs.removed r USING operator.settings s WHERE r.day < today - s.figure_days;
        outcome := qs.scrub_deleted(today);
    END IF;
END
$$;
