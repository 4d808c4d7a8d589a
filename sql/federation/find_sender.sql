-- federation.find_sender: tells whether this server deals with the homeserver whose key signed a request, before anything of
-- the request's body is read (FED-6). Nothing is written, and the function that the request is for asks again in its own
-- transaction.
--
--   signer_key: Ed25519 key, verified by the caller
--
-- Returns known, with the domain; unknown_signer: no key of another homeserver that is trusted and valid; blocked: the
-- operator does not let this server deal with the domain.
-- Called by federation.admit_relay, and by server processes before they read the bodies of POST /gateway and
-- POST /qs/deliveries.
CREATE OR REPLACE FUNCTION federation.find_sender(
    signer_key bytea, OUT outcome federation.find_sender_outcome, OUT domain text)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    domain := federation.signing_domain(signer_key);
    IF domain IS NULL THEN
        outcome := 'unknown_signer';
    ELSIF federation.is_allowed(domain) THEN
        outcome := 'known';
    ELSE
        outcome := 'blocked';
    END IF;
END
$$;
