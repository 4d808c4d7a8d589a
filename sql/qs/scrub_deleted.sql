-- qs.scrub_deleted: overwrites the bytes that deleted messages, and erased accounts, left on disk, one small batch of
-- pages (PRIV-3, AS-9): once a day, of all rows that autovacuum has taken off their pages by then.
--
--   today: UTC
--
-- Returns more: call again; done: until the day changes; busy: another session is at it.
-- Called by qs.keep_up.
CREATE OR REPLACE FUNCTION qs.scrub_deleted(today date, OUT outcome qs.keep_up_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    pages CONSTANT integer := 1000;
    sweep record;
    goes_on boolean;
BEGIN
    SELECT w.scrub_day, w.scrub_block INTO sweep
      FROM qs.sweep w WHERE w.singleton FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        outcome := 'busy';
        RETURN;
    ELSIF sweep.scrub_day <> today THEN
        sweep.scrub_block := 0;
    ELSIF sweep.scrub_block IS NULL THEN
        outcome := 'done';
        RETURN;
    END IF;
    -- All go side by side; one comes to its end before the other. Of messages, no index has more than numbers.
    WITH tables (oid) AS (
        SELECT c.oid FROM pg_class c
         WHERE c.relkind = 'r'
           AND (c.relnamespace = 'auth'::regnamespace
                OR c.oid IN ('qs.messages'::regclass, 'aas.takers'::regclass, 'aas.allowances'::regclass,
                             'aas.issued'::regclass, 'aas.requests'::regclass))
    ), stored (oid) AS (
        SELECT t.oid FROM tables t
        UNION ALL
        SELECT c.reltoastrelid FROM tables t JOIN pg_class c USING (oid) WHERE c.reltoastrelid <> 0
        UNION ALL
        SELECT i.indexrelid FROM tables t JOIN pg_index i ON i.indrelid = t.oid WHERE t.oid <> 'qs.messages'::regclass
    )
    SELECT bool_or(postern.scrub(s.oid, sweep.scrub_block, pages)) INTO goes_on FROM stored s;
    UPDATE qs.sweep w
       SET scrub_day = today, scrub_block = CASE WHEN goes_on THEN sweep.scrub_block + pages END
     WHERE w.singleton;
    outcome := CASE WHEN goes_on THEN 'more'::qs.keep_up_outcome ELSE 'done' END;
END
$$;
