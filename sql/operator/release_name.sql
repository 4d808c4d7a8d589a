-- operator.release_name: lets a reserved name be registered. To register it for oneself: release it, register it,
-- reserve it again.
--
--   name: one of operator.reserved_names(); others that look like it stay as they are
--
-- Returns false if the name is not reserved.
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.release_name(name text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM auth.reserved_names r WHERE r.name = postern.user_name(release_name.name);
    RETURN FOUND;
END
$$;
