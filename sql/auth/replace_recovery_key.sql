-- auth.replace_recovery_key: gives an account another recovery key (AS-8).
--
--   issuer_key, nonce: the token that pays
--   client_key: Ed25519 key of the client, verified by the caller
--   proof: the second proof, verified by the caller
--   successor: the new verifier
--
-- Returns replaced, also to an ID token that replaced it by this one before and whose answer was lost; token_spent;
-- unknown_client; wrong_proof: the proof does not hold any more, or its ID token was used.
-- Called by PUT /as/account/recovery-key.
CREATE OR REPLACE FUNCTION auth.replace_recovery_key(
    issuer_key smallint, nonce bytea, client_key bytea, proof auth.verified_proof, successor bytea,
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
      FROM auth.lock_account(replace_recovery_key.client_key, replace_recovery_key.proof) a;
    IF account.user_id IS NULL THEN
        outcome := 'unknown_client';
    ELSIF NOT account.proven
          OR NOT auth.use_id_token(proof)
             AND NOT EXISTS (SELECT FROM auth.users u
                              WHERE u.user_id = account.user_id AND u.recovery_key = replace_recovery_key.successor) THEN
        outcome := 'wrong_proof';
    ELSE
        UPDATE auth.users u
           SET recovery_key = replace_recovery_key.successor
         WHERE u.user_id = account.user_id;
        outcome := 'replaced';
    END IF;
END
$$;
