-- aas.settle_token: spends the token of a request that was refused before it came to an API function (AAS-4: a refused
-- operation spends its token).
--
--   issuer_key, nonce: the token
--   endpoint: name of the API function that the request was for, whose price it pays
--
-- Returns spent; token_spent: it was spent before, or the signature used (aas.spend_token).
-- Called for each such request.
CREATE OR REPLACE FUNCTION aas.settle_token(
    issuer_key smallint, nonce bytea, endpoint text,
    OUT outcome aas.settle_token_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    outcome := CASE WHEN aas.spend_token(endpoint, issuer_key, nonce)
                    THEN 'spent'::aas.settle_token_outcome ELSE 'token_spent' END;
END
$$;
