-- aas.settle_token: spends the token of a request that was refused before it came to an
-- API function (AAS-4: a refused operation spends its token).
--
-- endpoint: the API function it was for, whose price it pays.
-- Returns spent, or token_spent if it was spent before. Called for such requests.
CREATE OR REPLACE FUNCTION aas.settle_token(
    issuer_key smallint, nonce bytea, endpoint text,
    OUT outcome aas.settle_token_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    outcome := CASE WHEN aas.spend_token(endpoint, issuer_key, nonce)
                    THEN 'spent' ELSE 'token_spent' END;
END
$$;
