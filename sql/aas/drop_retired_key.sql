-- aas.drop_retired_key: drops one key that retired before yesterday (clocks differ), and its spent tokens in one stroke
-- (AAS-5).
--
-- The drop locks aas.spent against everyone for the milliseconds that it takes. (DETACH CONCURRENTLY would not, but is
-- impossible in a function, and the server's role executes functions only.) So it waits for the lock for a moment only,
-- during which spending requests queue up behind it. Keys are locked first, as aas.add_issuer_key does: each of the two
-- would wait for the other else.
--
-- Returns dropped; none: there is none; busy: try again later.
-- Called by each server process hourly, until it says none.
CREATE OR REPLACE FUNCTION aas.drop_retired_key(OUT outcome aas.drop_retired_key_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms' AS $$
DECLARE
    -- A clock that is ahead for some hours costs nobody tokens.
    today CONSTANT date := operator.note_day();
    retired smallint;
BEGIN
    PERFORM FROM aas.issuer_keys k WHERE k.retires < today;
    IF NOT FOUND THEN
        outcome := 'none';
        RETURN;
    END IF;
    LOCK TABLE aas.issuer_keys IN SHARE ROW EXCLUSIVE MODE;
    SELECT k.issuer_key INTO retired
      FROM aas.issuer_keys k
     WHERE k.retires < today
     ORDER BY k.issuer_key
     LIMIT 1;
    IF NOT FOUND THEN
        outcome := 'none';
        RETURN;
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS aas.spent_%s', retired);
    DELETE FROM aas.issuer_keys k WHERE k.issuer_key = retired;
    outcome := 'dropped';
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    outcome := 'busy';
END
$$;
