-- auth.is_name_kept: tells whether a name, or one that is taken for it, is the operator's, or was another user's until
-- lately (AS-1, AS-9).
--
--   skeleton: of the name, as postern.skeleton makes it
--   user_id: account that wants the name, which can take its own former names back
--
-- Called by auth.rename_user, and by the trigger of auth.users.
CREATE OR REPLACE FUNCTION auth.is_name_kept(skeleton text, user_id uuid) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM auth.reserved_names r WHERE r.skeleton = is_name_kept.skeleton)
        OR EXISTS (SELECT FROM auth.former_names f
                    WHERE f.skeleton = is_name_kept.skeleton
                      AND f.user_id IS DISTINCT FROM is_name_kept.user_id);
END
$$;
