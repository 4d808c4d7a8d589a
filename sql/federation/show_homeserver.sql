-- federation.show_homeserver: finds the description of another domain's homeserver for a client.
--
--   issuer_key, nonce: the token that pays
--   domain, fresh: as in federation.find_homeserver
--
-- Returns token_spent; anything else is as in federation.find_homeserver.
-- Called by GET /homeservers/{domain}.
CREATE OR REPLACE FUNCTION federation.show_homeserver(
    issuer_key smallint, nonce bytea, domain text, fresh boolean,
    OUT outcome federation.show_homeserver_outcome, OUT description bytea, OUT trusted bytea[], OUT distrusted bytea[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT aas.spend_token('federation.show_homeserver', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    SELECT f.outcome::text::federation.show_homeserver_outcome, f.description, f.trusted, f.distrusted
      INTO STRICT outcome, description, trusted, distrusted
      FROM federation.find_homeserver(show_homeserver.domain, show_homeserver.fresh) f;
END
$$;
