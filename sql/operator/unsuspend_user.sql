-- operator.unsuspend_user: takes the suspension of a user back.
--
--   user_name: without @ and domain
--
-- Returns false if the user is not suspended.
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.unsuspend_user(user_name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE auth.users u SET suspended = false WHERE u.user_id = auth.find_user(user_name) AND u.suspended;
    RETURN FOUND;
END
$$;
