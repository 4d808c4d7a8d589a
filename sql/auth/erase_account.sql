-- auth.erase_account: ends an account and leaves no row of it (AS-9, PRIV-3): its clients, its incarnations with the
-- log of their commits, and the AAS's rows of the user go with it. Triggers refuse every other way to delete from the
-- tables of accounts.
--
--   user_id: which account
--
-- The name is free afterwards, and so are its former ones. The caller asks for a second proof before.
-- Returns false if there is no such account.
-- Called by auth.delete_account, auth.expire and operator.delete_user.
CREATE OR REPLACE FUNCTION auth.erase_account(user_id uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- This waits for commits and lookups under way.
    PERFORM FROM auth.users u WHERE u.user_id = erase_account.user_id FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO auth.erasures (user_id, transaction_id)
    VALUES (erase_account.user_id, pg_current_xact_id());
    DELETE FROM auth.wrong_proofs w
     WHERE w.name_digest IN (
           SELECT sha256(convert_to(u.name, 'UTF8')) FROM auth.users u WHERE u.user_id = erase_account.user_id
            UNION ALL
           SELECT sha256(convert_to(f.name, 'UTF8')) FROM auth.former_names f WHERE f.user_id = erase_account.user_id);
    DELETE FROM auth.clients c WHERE c.user_id = erase_account.user_id;
    DELETE FROM auth.eid_log l WHERE l.user_id = erase_account.user_id;
    DELETE FROM auth.incarnations i WHERE i.user_id = erase_account.user_id;
    -- Whatever else refers to the user goes by its foreign key: in this schema, and in aas.takers with what refers to that.
    DELETE FROM auth.users u WHERE u.user_id = erase_account.user_id;
    DELETE FROM auth.erasures e WHERE e.user_id = erase_account.user_id;
    RETURN true;
END
$$;
