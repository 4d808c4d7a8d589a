-- operator.set_new_user_allowance: sets how many tokens a user may take on the first day (UTC) on which it takes some.
-- Each such day adds as many, up to the allowance of each user. An allowance of the user's own counts instead.
--
--   tokens: at least 1; as many as the allowance of each user, and new users are like all others
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_new_user_allowance(tokens integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM operator.set_limit('aas.settings', 'new_user_allowance', tokens);
END
$$;
