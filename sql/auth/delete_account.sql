-- auth.delete_account: erases the account of a client at its owner's wish (AS-9). The name is free afterwards.
--
--   issuer_key, nonce: the token that pays
--   client_key: Ed25519 key of the client, verified by the caller
--   recovery_key: the verifier that the caller verified the second proof with
--
-- Returns deleted, token_spent, unknown_client; wrong_proof: the account has another recovery key by now.
-- Called by DELETE /as/account.
CREATE OR REPLACE FUNCTION auth.delete_account(
    issuer_key smallint, nonce bytea, client_key bytea, recovery_key bytea, OUT outcome auth.delete_account_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    account record;
BEGIN
    IF NOT aas.spend_token('auth.delete_account', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    SELECT a.user_id, a.proven INTO account
      FROM auth.lock_account(delete_account.client_key, delete_account.recovery_key) a;
    IF account.user_id IS NULL THEN
        outcome := 'unknown_client';
    ELSIF NOT account.proven THEN
        outcome := 'wrong_proof';
    ELSE
        PERFORM auth.erase_account(account.user_id);
        outcome := 'deleted';
    END IF;
END
$$;
