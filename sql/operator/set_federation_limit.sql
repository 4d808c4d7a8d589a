-- operator.set_federation_limit: changes a limit of federation. Takes effect with the next request, on every server.
--
--   name: one of operator.federation_limits()
--   value: the new limit
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_federation_limit(name text, value integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM operator.federation_limits() l WHERE l.name = set_federation_limit.name) THEN
        RAISE EXCEPTION 'no limit is called %', name USING HINT = 'operator.federation_limits() lists all.';
    END IF;
    PERFORM operator.set_limit('federation.settings', name, value);
END
$$;
