-- operator.set_backup_warning: sets after how many days without a backup operator.health warns; after seven times as many
-- it is a problem.
--
--   days: at least 1
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_backup_warning(days integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF days IS NULL OR days NOT BETWEEN 1 AND 366 THEN
        RAISE EXCEPTION 'a warning comes after 1 to 366 days' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    UPDATE operator.last_backup b SET warn_days = days;
END
$$;
