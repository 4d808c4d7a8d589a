-- operator.trust_homeserver_key: trusts a key of another domain's homeserver: requests that it signs may take tokens
-- from now on (AAS-2). A key that was distrusted is trusted again.
--
--   domain: the key's domain, which is not the home domain
--   public_key: Ed25519, 32 bytes, which is not another domain's
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.trust_homeserver_key(domain text, public_key bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO federation.homeserver_keys AS k (public_key, domain, pinned)
    VALUES (trust_homeserver_key.public_key, trust_homeserver_key.domain, (now() AT TIME ZONE 'UTC')::date)
    ON CONFLICT ON CONSTRAINT homeserver_keys_pkey DO UPDATE
       SET distrusted = NULL
     WHERE k.domain = excluded.domain;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'this key is pinned to another domain' USING HINT = 'operator.homeserver_keys() lists all.';
    END IF;
END
$$;
