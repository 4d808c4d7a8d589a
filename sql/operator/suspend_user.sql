-- operator.suspend_user: suspends a user: from the next request on it gets no tokens, no credentials and no invites. It
-- stays registered, and lookups show it as before. Tokens that its clients have are anonymous and stay good; a
-- credential runs out by itself.
--
--   user_name: without @ and domain
--
-- Returns false if the user is suspended already.
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.suspend_user(user_name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE auth.users u SET suspended = true WHERE u.user_id = auth.find_user(user_name) AND NOT u.suspended;
    RETURN FOUND;
END
$$;
