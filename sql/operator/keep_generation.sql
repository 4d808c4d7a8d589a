-- operator.keep_generation: says that this database lost nothing although it is another cluster or timeline than before, or
-- looks put back: after the promotion of a synchronous standby, a recovery up to the newest WAL, or an upgrade by
-- pg_upgrade. Without that, operator.begin_generation is due.
--
-- Returns the number of the generation, which stays.
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.keep_generation(OUT generation bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE operator.generation g
       SET origin = operator.origin(),
           decided = greatest(g.decided + 1, g.number,
                              extract(epoch FROM clock_timestamp() - timestamptz '2020-01-01 00:00:00+00')::bigint)
    RETURNING g.number INTO generation;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the database is not whole: a restore did not come to its end'
              USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'restore it once more';
    END IF;
END
$$;
