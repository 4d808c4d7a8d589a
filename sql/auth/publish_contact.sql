-- auth.publish_contact: replaces the address at which a client takes first contact (AS-5).
--
--   issuer_key, nonce: the token that pays
--   client_key: Ed25519 key of the client, verified by the caller
--   sealed_contact: sealed by the server under its master key
--
-- Returns published; token_spent; unknown_client, also for one that is not confirmed (AS-4).
-- Called by PUT /as/contact.
CREATE OR REPLACE FUNCTION auth.publish_contact(
    issuer_key smallint, nonce bytea, client_key bytea, sealed_contact bytea, OUT outcome auth.publish_contact_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT aas.spend_token('auth.publish_contact', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    UPDATE auth.clients c
       SET sealed_contact = publish_contact.sealed_contact
     WHERE c.client_key = publish_contact.client_key AND c.confirmed;
    outcome := CASE WHEN FOUND THEN 'published'::auth.publish_contact_outcome ELSE 'unknown_client' END;
END
$$;
