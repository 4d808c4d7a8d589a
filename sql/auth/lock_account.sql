-- auth.lock_account: locks the account of a client until the end of the transaction, and tells whether a second proof
-- that was verified before still holds (AS-9).
--
--   client_key: Ed25519 key of the client, verified by the caller
--   proof: the second proof
--
-- Returns the user, or null if the client is gone or not confirmed (AS-4); proven: false if the proof does not hold any
-- more.
-- Called by auth.delete_account, auth.rename_user and auth.replace_recovery_key.
CREATE OR REPLACE FUNCTION auth.lock_account(
    client_key bytea, proof auth.verified_proof, OUT user_id uuid, OUT proven boolean)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM auth.users u
      WHERE u.user_id = (SELECT c.user_id FROM auth.clients c WHERE c.client_key = lock_account.client_key)
        FOR UPDATE;
    -- The client is looked for again, now that the lock is held: it may be gone since.
    SELECT u.user_id, auth.is_proven(u.user_id, lock_account.proof) INTO user_id, proven
      FROM auth.clients c
      JOIN auth.users u ON u.user_id = c.user_id
     WHERE c.client_key = lock_account.client_key AND c.confirmed;
END
$$;
