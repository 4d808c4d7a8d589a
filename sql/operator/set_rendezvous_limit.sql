-- operator.set_rendezvous_limit: changes a limit of rendezvous. Takes effect with the next request, on every server.
--
--   name: one of operator.rendezvous_limits()
--   value: the new limit
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_rendezvous_limit(name text, value integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM operator.rendezvous_limits() l WHERE l.name = set_rendezvous_limit.name) THEN
        RAISE EXCEPTION 'no limit is called %', name USING HINT = 'operator.rendezvous_limits() lists all.';
    END IF;
    PERFORM operator.set_limit('rendezvous.settings', name, value);
END
$$;
