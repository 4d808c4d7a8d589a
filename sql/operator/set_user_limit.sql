-- operator.set_user_limit: changes a limit of registrations or of users' identities. Takes effect with the next
-- request, on every server, and takes nothing away: a user who has too many clients by a new limit keeps them, and gets
-- no more.
--
--   name: one of operator.user_limits()
--   value: the new limit
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_user_limit(name text, value integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM operator.user_limits() l WHERE l.name = set_user_limit.name) THEN
        RAISE EXCEPTION 'no limit is called %', name USING HINT = 'operator.user_limits() lists all.';
    END IF;
    PERFORM operator.set_limit('auth.settings', name, value);
END
$$;
