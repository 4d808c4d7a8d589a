-- auth.replace_recovery_key: gives an account another recovery key (AS-8).
--
--   issuer_key, nonce: the token that pays
--   client_key: Ed25519 key of the client, verified by the caller
--   recovery_key: the verifier that the caller verified the second proof with
--   successor: the new verifier
--
-- Returns replaced, token_spent, unknown_client; wrong_proof: the account has another recovery key by now.
-- Called by PUT /as/account/recovery-key.
CREATE OR REPLACE FUNCTION auth.replace_recovery_key(
    issuer_key smallint, nonce bytea, client_key bytea, recovery_key bytea, successor bytea,
    OUT outcome auth.replace_recovery_key_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    account record;
BEGIN
    IF NOT aas.spend_token('auth.replace_recovery_key', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    SELECT a.user_id, a.proven INTO account
      FROM auth.lock_account(replace_recovery_key.client_key, replace_recovery_key.recovery_key) a;
    IF account.user_id IS NULL THEN
        outcome := 'unknown_client';
    ELSIF NOT account.proven THEN
        outcome := 'wrong_proof';
    ELSE
        UPDATE auth.users u
           SET recovery_key = replace_recovery_key.successor
         WHERE u.user_id = account.user_id;
        outcome := 'replaced';
    END IF;
END
$$;
