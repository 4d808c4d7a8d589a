-- operator.set_federation_policy: sets which domains this server deals with (FED-2), from now on and on every process.
--
--   mode: open, for all but those that are blocked; allow_list, for those that are allowed only
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_federation_policy(mode text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF set_federation_policy.mode IS NULL OR set_federation_policy.mode NOT IN ('open', 'allow_list') THEN
        RAISE EXCEPTION 'no policy is called %', set_federation_policy.mode USING HINT = 'There are open and allow_list.';
    END IF;
    UPDATE federation.settings s SET mode = set_federation_policy.mode;
END
$$;
