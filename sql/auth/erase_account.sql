-- auth.erase_account: ends an account and leaves nothing of it (AS-9, PRIV-3): clients, incarnations, the log of their
-- commits, and what the AAS keeps of the user. The only way to delete any of these: triggers refuse all others.
--
-- user_id: which account. The caller asks for a second proof before. The name is free afterwards.
-- Returns false if there is no such account. Granted to nobody yet.
CREATE OR REPLACE FUNCTION auth.erase_account(user_id uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- It waits for commits and lookups under way.
    PERFORM FROM auth.users u WHERE u.user_id = erase_account.user_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM auth.clients c WHERE c.user_id = erase_account.user_id;
    DELETE FROM auth.eid_log l WHERE l.user_id = erase_account.user_id;
    DELETE FROM auth.incarnations i WHERE i.user_id = erase_account.user_id;
    -- Takers refer to it and go with it.
    DELETE FROM auth.users u WHERE u.user_id = erase_account.user_id;
    RETURN true;
END
$$;
