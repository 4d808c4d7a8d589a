-- operator.reserve_name: keeps a name, and all that look like it, from being registered. A user who has it keeps it.
--
--   name: without @ and domain, in any form: Admin is admin
--
-- Returns false if the name was reserved before.
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.reserve_name(name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO auth.reserved_names (name) VALUES (postern.user_name(reserve_name.name))
    ON CONFLICT ON CONSTRAINT reserved_names_pkey DO NOTHING;
    RETURN FOUND;
EXCEPTION WHEN check_violation OR not_null_violation THEN
    RAISE EXCEPTION 'this is no user name'
        USING ERRCODE = 'check_violation',
              HINT = 'Give it without @ and domain: 1 to 64 letters and digits of one script, and ".", "-", "_" between them.';
END
$$;
