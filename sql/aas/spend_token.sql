-- aas.spend_token: spends the token that pays for an API function, in its transaction: the gate of all of them (AAS-4).
--
--   endpoint: name of the API function, for its price in sql/prices.sql (AAS-5)
--   issuer_key, nonce: the token, verified by the caller. Behind the nonce (32 bytes) follows the digest of the
--     request's signature (32 bytes), if it has one. So every API function hands both on, and whether a token is spent
--     in this transaction is decided here alone: where none is, the signature is used up instead
--
-- Returns false if the token was spent, or the signature used, before. An endpoint without a price is a fault.
-- Called by every API function that costs a token. It is one expression and has no SET clause, so PostgreSQL puts it in
-- place of the call, and the call costs nothing.
CREATE OR REPLACE FUNCTION aas.spend_token(endpoint text, issuer_key smallint, nonce bytea)
RETURNS boolean
LANGUAGE sql AS $$ SELECT postern.spend_token(endpoint, issuer_key, nonce) $$;
