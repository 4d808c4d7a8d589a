-- auth.keep_credential: tells which credential counts for a client whose request came again. One that was silent for long has
-- none (auth.expire): it gets another one, as from auth.store_credential.
--
--   client_key: of a confirmed client
--   kept: the one that it has; null: none
--   credential: the one that was just signed for it
--
-- Returns the one that is kept, this one, or one that another request brought meanwhile; null if the client is gone.
-- Called by auth.register_user and auth.reset_account, for a repeat of what made the client.
CREATE OR REPLACE FUNCTION auth.keep_credential(client_key bytea, kept bytea, credential bytea) RETURNS bytea
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF kept IS NULL THEN
        UPDATE auth.clients c
           SET credential = coalesce(c.credential, keep_credential.credential),
               heard = auth.month(operator.today()::timestamp AT TIME ZONE 'UTC')
         WHERE c.client_key = keep_credential.client_key
        RETURNING c.credential INTO kept;
    END IF;
    RETURN kept;
END
$$;
