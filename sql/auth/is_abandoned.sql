-- auth.is_abandoned: tells whether nothing was heard of an account since before a month (AS-9): no client of it asked for a
-- credential, and no identity of it ended.
--
--   user_id: which account; the caller that erases it has locked it and its clients
--   month: auth.month
--
-- Called by auth.expire.
CREATE OR REPLACE FUNCTION auth.is_abandoned(user_id uuid, month integer) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN NOT EXISTS (SELECT FROM auth.clients c
                        WHERE c.user_id = is_abandoned.user_id AND c.heard >= is_abandoned.month)
       AND NOT EXISTS (SELECT FROM auth.incarnations i
                        WHERE i.user_id = is_abandoned.user_id AND i.ended >= is_abandoned.month);
END
$$;
