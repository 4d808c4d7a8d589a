-- auth.delete_account: erases the account of a client at its owner's wish (AS-9). The name is free afterwards. A rehearsal
-- tells whether the proof holds, and changes nothing: a client that is going to leave its groups asks before.
--
--   issuer_key, nonce: the token that pays
--   client_key: Ed25519 key of the client, verified by the caller
--   proof: the second proof, verified by the caller
--   rehearsal: whether nothing is to be erased
--
-- Returns deleted; proven, for a rehearsal; token_spent; unknown_client; wrong_proof: the proof does not hold any more, or
-- its ID token was used.
-- Called by DELETE /as/account.
CREATE OR REPLACE FUNCTION auth.delete_account(
    issuer_key smallint, nonce bytea, client_key bytea, proof auth.verified_proof, rehearsal boolean,
    OUT outcome auth.delete_account_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    account record;
BEGIN
    IF NOT aas.spend_token('auth.delete_account', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    SELECT a.user_id, a.proven INTO account
      FROM auth.lock_account(delete_account.client_key, delete_account.proof) a;
    IF account.user_id IS NULL THEN
        outcome := 'unknown_client';
    ELSIF NOT account.proven THEN
        outcome := 'wrong_proof';
    ELSIF rehearsal THEN
        outcome := 'proven';
    ELSIF NOT auth.use_id_token(proof) THEN
        outcome := 'wrong_proof';
    ELSE
        PERFORM auth.erase_account(account.user_id);
        outcome := 'deleted';
    END IF;
END
$$;
