-- aas.spend_token: the gate of every API function (AAS-4): spends the token that pays for
-- it, in its transaction.
--
-- endpoint: the API function's name, for its price (AAS-5). issuer_key, nonce: the token,
-- verified by the caller.
-- Returns false if the token was spent before. Called by every API function that costs.
CREATE OR REPLACE FUNCTION aas.spend_token(endpoint text, issuer_key smallint, nonce bytea)
RETURNS boolean
LANGUAGE plpgsql SET search_path = aas, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM aas.prices p
                WHERE p.endpoint = spend_token.endpoint AND p.price = 0) THEN
        RETURN true;
    END IF;
    RETURN postern.spend_token(issuer_key, nonce);
END
$$;
