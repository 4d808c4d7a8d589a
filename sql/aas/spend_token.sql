-- aas.spend_token: the gate of every API function (AAS-4): spends the token that pays for
-- it, in its transaction.
--
-- endpoint: the API function's name, for its price in sql/prices.sql (AAS-5). issuer_key,
-- nonce: the token, verified by the caller.
-- Returns false if the token was spent before. An endpoint without a price is a fault.
-- Called by every API function that costs. One expression and no SET clause, so that
-- PostgreSQL puts it in place of the call, and the call costs nothing.
CREATE OR REPLACE FUNCTION aas.spend_token(endpoint text, issuer_key smallint, nonce bytea)
RETURNS boolean
LANGUAGE sql AS $$ SELECT postern.spend_token(endpoint, issuer_key, nonce) $$;
