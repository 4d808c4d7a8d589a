-- auth.find_user: finds the account of a name that an operator gives, in any form: capital letters do not matter, say.
--
--   user_name: without @ and domain
--
-- An error if there is none.
-- Called by functions of the schema operator.
CREATE OR REPLACE FUNCTION auth.find_user(user_name text) RETURNS uuid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_user uuid;
BEGIN
    SELECT u.user_id INTO found_user FROM auth.users u WHERE u.name = postern.user_name(find_user.user_name);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no user of that name'
            USING ERRCODE = 'no_data_found', HINT = 'Give the name without @ and domain.';
    END IF;
    RETURN found_user;
END
$$;
