-- operator.set_user_invites: sets how many invites one user can make in the time for which an invite is good
-- (invite_days of operator.user_limits()).
--
--   user_name: without @ and domain
--   invites: 0 for none; null takes an earlier call back, so that invites_per_user holds
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_user_invites(user_name text, invites integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE auth.users u SET invites = set_user_invites.invites WHERE u.user_id = auth.find_user(user_name);
END
$$;
