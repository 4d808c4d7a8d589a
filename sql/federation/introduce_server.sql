-- federation.introduce_server: tells whether a homeserver that introduces itself is known by the key with which it
-- signs, and uses its signature up: the request costs no token, so it is good once. Of a stranger, which anybody can
-- be, nothing is kept; a look at one is an attempt of the network that it asks from.
--
--   signer_key: Ed25519 key, verified by the caller
--   signature: digest of the request's signature
--   sources: HMACs of the sender's network address, and of the networks that it is in, the narrowest first
--   domain: the domain that the signer says it is of, which is not the home domain
--
-- Returns known; unknown: a look at the domain's description would tell; blocked: the operator does not let this server
-- deal with the domain; signature_used; source_limited, server_limited: no more strangers are looked at in this hour for
-- this address, or for all addresses together, with allowance, the number of looks in an hour that counted here, and
-- resets_in, the seconds until the next hour begins.
-- Called by POST /homeservers.
CREATE OR REPLACE FUNCTION federation.introduce_server(
    signer_key bytea, signature bytea, sources bytea[], domain text,
    OUT outcome federation.introduce_server_outcome, OUT allowance integer, OUT resets_in integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    settings federation.settings;
    attempt record;
BEGIN
    IF NOT federation.is_allowed(introduce_server.domain) THEN
        outcome := 'blocked';
        RETURN;
    ELSIF federation.signing_domain(signer_key) = introduce_server.domain THEN
        IF aas.use_signature(signature) THEN
            PERFORM federation.heard(introduce_server.domain);
            outcome := 'known';
        ELSE
            outcome := 'signature_used';
        END IF;
        RETURN;
    END IF;
    outcome := 'unknown';
    -- A neighbour has other keys; or it was looked at a moment ago.
    IF EXISTS (SELECT FROM federation.homeserver_keys k WHERE k.domain = introduce_server.domain AND k.distrusted IS NULL)
       OR (SELECT f.outcome <> 'due' FROM federation.find_homeserver(introduce_server.domain, true) f) THEN
        RETURN;
    END IF;
    SELECT s.* INTO settings FROM federation.settings s;
    SELECT * INTO attempt
      FROM operator.admit_attempt(
          'introduction', introduce_server.sources, settings.introductions_per_source, settings.network_factor,
          settings.introductions_per_hour, settings.new_sources_percent);
    resets_in := attempt.resets_in;
    IF attempt.limited IS NOT NULL THEN
        outcome := attempt.limited::federation.introduce_server_outcome;
        allowance := attempt.allowance;
    END IF;
END
$$;
