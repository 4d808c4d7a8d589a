-- operator.end_master_key_change: ends the change of the master key once no value is sealed under the one before; from
-- then on the database takes none that is.
--
-- Returns ended; unfinished: there are values under the one before.
-- Called by `postern master-key change`.
CREATE OR REPLACE FUNCTION operator.end_master_key_change(OUT outcome operator.end_master_key_change_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sealed record;
    is_left boolean;
BEGIN
    outcome := 'ended';
    FOR sealed IN SELECT c.place, c.value_column FROM operator.sealed_columns() c LOOP
        -- A transaction that writes here has written, or waits, and looks then at what this leaves.
        EXECUTE format('LOCK TABLE %s IN SHARE MODE', sealed.place);
        EXECUTE format('SELECT EXISTS (SELECT FROM %s t, operator.master_key m WHERE substr(t.%I, 1, 8) <> m.key_id)',
                       sealed.place, sealed.value_column)
           INTO is_left;
        IF is_left THEN
            outcome := 'unfinished';
            RETURN;
        END IF;
    END LOOP;
    UPDATE operator.master_key m SET previous_id = NULL WHERE m.previous_id IS NOT NULL;
END
$$;
