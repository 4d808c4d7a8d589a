-- federation.relay_token_request: finds the homeserver whose tokens a client asks for (FED-5). One token of this server
-- buys a limited number of another one's: so a user's share of what that one gives to the home domain follows from the
-- user's own allowance.
--
--   issuer_key, nonce: the token that pays
--   domain: another domain than the home domain
--   tokens: how many are asked for
--
-- Returns token_spent; too_many_tokens: more than one request may have; anything else is as in
-- federation.find_homeserver.
-- Called by POST /relay/{domain}/token-request.
CREATE OR REPLACE FUNCTION federation.relay_token_request(
    issuer_key smallint, nonce bytea, domain text, tokens integer,
    OUT outcome federation.relay_token_request_outcome, OUT description bytea, OUT trusted bytea[], OUT distrusted bytea[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT aas.spend_token('federation.relay_token_request', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    IF tokens > (SELECT s.relayed_tokens FROM federation.settings s) THEN
        outcome := 'too_many_tokens';
        RETURN;
    END IF;
    SELECT f.outcome::text::federation.relay_token_request_outcome, f.description, f.trusted, f.distrusted
      INTO STRICT outcome, description, trusted, distrusted
      FROM federation.find_homeserver(relay_token_request.domain, fresh => false) f;
END
$$;
