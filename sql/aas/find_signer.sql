-- aas.find_signer: finds the taker of tokens that a token request's signer acts for: a client's user, or a homeserver's
-- domain that is trusted (AAS-2). Both are null for any other signer. suspended: the operator has suspended the user.
--
--   signer_key: Ed25519 key, verified by the caller
--
-- Called by aas.admit_signer and aas.take_allowance.
CREATE OR REPLACE FUNCTION aas.find_signer(signer_key bytea, OUT user_id uuid, OUT domain text, OUT suspended boolean)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT c.user_id, NULL, u.suspended
      FROM auth.clients c
      JOIN auth.users u USING (user_id)
     WHERE c.client_key = signer_key
    UNION ALL
    SELECT NULL, k.domain::text, false
      FROM federation.homeserver_keys k
     WHERE k.public_key = signer_key AND k.distrusted IS NULL
     LIMIT 1
$$;
