-- federation.drop_tokens: drops the tokens of another domain's issuer that were made with other keys than its present one.
--
--   domain: another domain than the home domain
--   issuer_key_id: id of the present key, 32 bytes; null: drop all
--
-- Called by the server process that learnt of another key.
CREATE OR REPLACE FUNCTION federation.drop_tokens(domain text, issuer_key_id bytea) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM federation.tokens t
     WHERE t.domain = drop_tokens.domain AND t.issuer_key_id IS DISTINCT FROM drop_tokens.issuer_key_id
$$;
