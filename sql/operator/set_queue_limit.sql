-- operator.set_queue_limit: changes a limit of the mailboxes, at once and for every server. What is too old by a new
-- limit is removed within minutes.
--
--   name: one of operator.queue_limits()
--   value: the new limit
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_queue_limit(name text, value integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM operator.queue_limits() l WHERE l.name = set_queue_limit.name) THEN
        RAISE EXCEPTION 'no limit is called %', name USING HINT = 'operator.queue_limits() lists all.';
    END IF;
    PERFORM operator.set_limit(
        CASE WHEN name IN ('message_days', 'figure_days') THEN 'operator.settings' ELSE 'qs.settings' END, name, value);
    -- The day's sweep begins anew.
    UPDATE qs.sweep w SET day = 'epoch', position = NULL;
END
$$;
