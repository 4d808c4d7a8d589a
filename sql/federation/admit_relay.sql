-- federation.admit_relay: lets a request of another domain's homeserver in before the server opens what is sealed in it
-- (FED-5), and uses its signature up: it costs no token, so it is good once. What is in it pays for itself.
--
--   signer_key: Ed25519 key, verified by the caller
--   signature: digest of the request's signature
--
-- Returns admitted, with the domain; unknown_signer: no key of another homeserver that is trusted and valid; blocked: the
-- operator does not let this server deal with the domain; signature_used.
-- Called by POST /gateway.
CREATE OR REPLACE FUNCTION federation.admit_relay(
    signer_key bytea, signature bytea, OUT outcome federation.admit_relay_outcome, OUT domain text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    sender record;
BEGIN
    SELECT s.outcome, s.domain INTO STRICT sender FROM federation.find_sender(signer_key) s;
    domain := sender.domain;
    IF sender.outcome <> 'known' THEN
        outcome := sender.outcome::text::federation.admit_relay_outcome;
    ELSIF aas.use_signature(signature) THEN
        PERFORM federation.heard(domain);
        outcome := 'admitted';
    ELSE
        outcome := 'signature_used';
    END IF;
END
$$;
