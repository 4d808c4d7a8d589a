-- federation.keep_tokens: puts tokens of another domain's issuer into the wallet, and ends the request for them.
--
--   domain: another domain than the home domain
--   issuer_key_id: id of the issuer's key, 32 bytes
--   ids, sealed: of each token a random id (16 bytes), and itself, sealed under the server's master key
--
-- Called by the server process that asked for them.
CREATE OR REPLACE FUNCTION federation.keep_tokens(
    domain text, issuer_key_id bytea, ids bytea[], sealed bytea[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO federation.tokens (id, domain, issuer_key_id, sealed, day)
    SELECT t.id, keep_tokens.domain, keep_tokens.issuer_key_id, t.sealed, operator.today()
      FROM unnest(keep_tokens.ids, keep_tokens.sealed) AS t (id, sealed);
    DELETE FROM federation.refills r WHERE r.domain = keep_tokens.domain;
    -- Deliveries that waited for tokens only are due.
    IF EXISTS (SELECT FROM federation.attempts a WHERE a.domain = keep_tokens.domain AND a.state = 'out_of_tokens') THEN
        PERFORM federation.recover(keep_tokens.domain);
    END IF;
END
$$;
