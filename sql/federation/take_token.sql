-- federation.take_token: takes a token of another domain's issuer out of the wallet: it is forgotten before it is sent, so
-- none is sent twice.
--
--   domain: another domain than the home domain
--
-- Returns taken, with id, sealed, and low: whether less than half of wallet_tokens are left; none: there is none; blocked: the
-- operator does not let this server deal with the domain, so that an attempt that is under way ends there (FED-2).
-- Called by server processes before each request of a delivery to the domain.
CREATE OR REPLACE FUNCTION federation.take_token(
    domain text, OUT outcome federation.take_token_outcome, OUT id bytea, OUT sealed bytea, OUT low boolean)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT federation.is_allowed(take_token.domain) THEN
        outcome := 'blocked';
        RETURN;
    END IF;
    DELETE FROM federation.tokens t
     WHERE t.id = (SELECT n.id FROM federation.tokens n WHERE n.domain = take_token.domain LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING t.id, t.sealed INTO id, sealed;
    outcome := CASE WHEN FOUND THEN 'taken'::federation.take_token_outcome ELSE 'none' END;
    low := federation.is_wallet_low(take_token.domain);
END
$$;
