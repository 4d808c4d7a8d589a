-- federation.claim_refill: claims the next request for tokens of another domain's issuer, if less than half of
-- wallet_tokens are left. One process makes it at a time.
--
--   domain: another domain than the home domain
--   seconds: time for which nobody else makes one
--
-- Returns claimed, with tokens: how many to ask for; not_due; blocked: the operator does not let this server deal with the
-- domain.
-- Called by server processes that take tokens.
CREATE OR REPLACE FUNCTION federation.claim_refill(
    domain text, seconds integer, OUT outcome federation.claim_refill_outcome, OUT tokens integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT s.wallet_tokens INTO STRICT tokens FROM federation.settings s;
    IF NOT federation.is_allowed(claim_refill.domain) THEN
        outcome := 'blocked';
    ELSIF NOT federation.is_wallet_low(claim_refill.domain) THEN
        outcome := 'not_due';
    ELSE
        INSERT INTO federation.refills AS r (domain, asked, seconds)
        VALUES (claim_refill.domain, now(), claim_refill.seconds)
        ON CONFLICT ON CONSTRAINT refills_pkey DO UPDATE SET (asked, seconds) = ROW(excluded.asked, excluded.seconds)
         -- A request in the future was noted by a clock that was wrong.
         WHERE NOT now() BETWEEN r.asked AND r.asked + r.seconds * interval '1 second';
        outcome := CASE WHEN FOUND THEN 'claimed'::federation.claim_refill_outcome ELSE 'not_due' END;
    END IF;
END
$$;
