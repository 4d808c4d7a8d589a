-- aas.is_token_spent: tells whether a token is spent. It may be spent a moment later: only aas.spend_token decides.
--
--   issuer_key, nonce: the token, as aas.spend_token takes it
--
-- Called before anything dear is done for a token, by functions that load what it is for as well, and to tell a spent
-- token from a used signature. Not LANGUAGE sql: that would be parsed and planned at each call.
CREATE OR REPLACE FUNCTION aas.is_token_spent(issuer_key smallint, nonce bytea) RETURNS boolean
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN EXISTS (SELECT FROM aas.spent s
                    WHERE s.issuer_key = is_token_spent.issuer_key
                      AND s.nonce = substr(is_token_spent.nonce, 1, 32));
END
$$;
