-- aas.find_signer: finds the taker of tokens that a token request's signer acts for: a client's user, or a homeserver's
-- domain whose key is trusted and valid (AAS-2). Both are null for any other signer. suspended: the operator has
-- suspended the user. blocked: the operator does not let this server deal with the domain (FED-2).
--
--   signer_key: Ed25519 key, verified by the caller
--
-- Called by aas.admit_signer and aas.take_allowance.
CREATE OR REPLACE FUNCTION aas.find_signer(
    signer_key bytea, OUT user_id uuid, OUT domain text, OUT suspended boolean, OUT blocked boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.user_id, NULL, u.suspended, false
      FROM auth.clients c
      JOIN auth.users u USING (user_id)
     WHERE c.client_key = signer_key
    UNION ALL
    SELECT NULL, s.domain, false, NOT federation.is_allowed(s.domain)
      FROM federation.signing_domain(signer_key) AS s (domain)
     WHERE s.domain IS NOT NULL
     LIMIT 1
$$;
