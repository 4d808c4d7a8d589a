-- rendezvous.clean_up: deletes rendezvous whose minutes are over, and the attempts to join of hours that are over. Where no
-- rendezvous is left it empties the files of the table, too (PRIV-3).
--
-- Called by each server process every minute.
CREATE OR REPLACE FUNCTION rendezvous.clean_up() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- One that ends later than any that begins now was made by a clock that was ahead.
    DELETE FROM rendezvous.meetings m
     WHERE m.expires NOT BETWEEN rendezvous.this_minute() AND rendezvous.this_minute() + 61;
    PERFORM operator.forget_attempts('{rendezvous}');
    IF pg_relation_size('rendezvous.meetings') > 0 AND NOT EXISTS (SELECT FROM rendezvous.meetings) THEN
        BEGIN
            LOCK TABLE rendezvous.meetings IN ACCESS EXCLUSIVE MODE NOWAIT;
            IF NOT EXISTS (SELECT FROM rendezvous.meetings) THEN
                TRUNCATE rendezvous.meetings;
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            -- Somebody makes one just now: the next time.
            NULL;
        END;
    END IF;
END
$$;
