-- federation.expire_deliveries: sets some deliveries aside that waited for more than outbox_days, or drops some that
-- were set aside as long ago, or, the oldest first, as long as more than half of outbox_total_mib is taken: a few hundred
-- in a transaction, so that nobody waits long for the lane. A clock that is ahead for some hours makes none of them too
-- old (operator.note_day).
--
-- Returns whether there may be more.
-- Called by each server process hourly, until there are no more.
CREATE OR REPLACE FUNCTION federation.expire_deliveries() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last_day CONSTANT date := operator.note_day() - (SELECT s.outbox_days FROM federation.settings s);
    batch CONSTANT integer := 500;
    -- Whether what was set aside gives way to what waits.
    is_short CONSTANT boolean := (SELECT 2 * coalesce(sum(b.bytes), 0) FROM federation.outbox_bytes b)
        > (SELECT s.outbox_total_mib::bigint * 1048576 FROM federation.settings s);
    today CONSTANT date := operator.today();
    expired record;
BEGIN
    SELECT l.domain, l.lane INTO expired
      FROM federation.outgoing_lanes l
     WHERE l.waiting > 0
       AND (SELECT o.day < last_day OR o.day > today FROM federation.outbox o
             WHERE o.domain = l.domain AND o.lane = l.lane ORDER BY o.number LIMIT 1)
     LIMIT 1
       FOR NO KEY UPDATE SKIP LOCKED;
    IF FOUND THEN
        -- Deliveries that were put in while a clock was ahead would keep all behind them until their day.
        UPDATE federation.outbox o
           SET day = today
         WHERE o.domain = expired.domain AND o.lane = expired.lane AND o.day > today;
        -- Another process may have been faster.
        PERFORM federation.put_aside(expired.domain, expired.lane, last_day, batch, 'expired');
        RETURN true;
    END IF;
    SELECT a.domain, a.lane, a.day INTO expired
      FROM federation.set_aside a
     WHERE is_short OR a.day < last_day
     ORDER BY a.day
     LIMIT 1;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM federation.drop_aside(expired.domain, expired.lane, greatest(last_day, expired.day + 1), batch);
    RETURN true;
END
$$;
