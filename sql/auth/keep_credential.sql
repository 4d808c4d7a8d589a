-- auth.keep_credential: keeps a credential for a client that has none, because it was silent for long (auth.expire).
--
--   client_key: of a confirmed client
--   credential: the one that was just signed for it
--
-- Returns the credential that counts: this one, or one that another request brought meanwhile; null if the client is gone.
-- Called by auth.register_user and auth.reset_account, for a repeat of what made the client.
CREATE OR REPLACE FUNCTION auth.keep_credential(client_key bytea, credential bytea) RETURNS bytea
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kept bytea;
BEGIN
    UPDATE auth.clients c
       SET credential = coalesce(c.credential, keep_credential.credential),
           heard = auth.month(operator.today()::timestamp AT TIME ZONE 'UTC')
     WHERE c.client_key = keep_credential.client_key
    RETURNING c.credential INTO kept;
    RETURN kept;
END
$$;
