-- federation.relay_request: finds the homeserver that a client's sealed request is for (FED-5).
--
--   issuer_key, nonce: the token that pays
--   domain: another domain than the home domain
--
-- Returns token_spent; anything else is as in federation.find_homeserver.
-- Called by POST /relay/{domain}.
CREATE OR REPLACE FUNCTION federation.relay_request(
    issuer_key smallint, nonce bytea, domain text,
    OUT outcome federation.relay_request_outcome, OUT description bytea, OUT trusted bytea[], OUT distrusted bytea[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT aas.spend_token('federation.relay_request', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    SELECT f.outcome::text::federation.relay_request_outcome, f.description, f.trusted, f.distrusted
      INTO STRICT outcome, description, trusted, distrusted
      FROM federation.find_homeserver(relay_request.domain, fresh => false) f;
END
$$;
