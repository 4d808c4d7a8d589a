-- auth.store_credential: keeps the credential that was just signed for a client, for readers (AS-2).
--
--   issuer_key, nonce: the token that pays
--   client_key: Ed25519 key of the client, verified by the caller
--
-- Returns stored; token_spent; unknown_client, also for one that is not confirmed (AS-4); suspended: the operator has
-- suspended the client's user.
-- Called by POST /as/credentials.
CREATE OR REPLACE FUNCTION auth.store_credential(
    issuer_key smallint, nonce bytea, client_key bytea, credential bytea, OUT outcome auth.store_credential_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT aas.spend_token('auth.store_credential', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    UPDATE auth.clients c
       SET credential = store_credential.credential, heard = auth.month(operator.today()::timestamp AT TIME ZONE 'UTC')
      FROM auth.users u
     WHERE c.client_key = store_credential.client_key AND c.confirmed AND u.user_id = c.user_id AND NOT u.suspended;
    IF FOUND THEN
        outcome := 'stored';
    ELSIF EXISTS (SELECT FROM auth.clients c
                   WHERE c.client_key = store_credential.client_key AND c.confirmed) THEN
        outcome := 'suspended';
    ELSE
        outcome := 'unknown_client';
    END IF;
END
$$;
