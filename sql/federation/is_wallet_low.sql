-- federation.is_wallet_low: tells whether less than half of wallet_tokens of another domain's issuer are left.
--
--   domain: another domain than the home domain
--
-- Called by federation.take_token and federation.claim_refill.
CREATE OR REPLACE FUNCTION federation.is_wallet_low(domain text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (SELECT count(*)
              FROM (SELECT FROM federation.tokens t WHERE t.domain = is_wallet_low.domain LIMIT s.wallet_tokens / 2) n)
           < s.wallet_tokens / 2
      FROM federation.settings s
$$;
