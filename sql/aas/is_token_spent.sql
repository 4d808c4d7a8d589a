-- aas.is_token_spent: tells whether a token is spent. It may be spent a moment later: only aas.spend_token decides.
--
--   issuer_key, nonce: the token, as aas.spend_token takes it
--
-- Called for tokens that were shown before, and to tell a spent token from a used signature.
CREATE OR REPLACE FUNCTION aas.is_token_spent(issuer_key smallint, nonce bytea) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM aas.spent s
                    WHERE s.issuer_key = is_token_spent.issuer_key
                      AND s.nonce = substr(is_token_spent.nonce, 1, 32))
$$;
