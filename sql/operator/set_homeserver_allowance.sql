-- operator.set_homeserver_allowance: sets how many tokens each federated domain may take per day (UTC) that has no
-- allowance of its own by operator.set_allowance (AAS-2).
--
--   tokens: tokens for a day
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_homeserver_allowance(tokens integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tokens IS NULL THEN
        RAISE EXCEPTION 'the default allowance has to be a number';
    END IF;
    UPDATE aas.settings s SET homeserver_allowance = tokens;
END
$$;
