-- operator.delete_user: erases an account with all that belongs to it (AS-9). Its queues and KeyPackages, which nobody can
-- find by name, expire. The name and the login are free afterwards.
--
--   user_name: without @ and domain
--
-- An error if there is no such user.
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.delete_user(user_name text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM auth.erase_account(auth.find_user(user_name));
END
$$;
