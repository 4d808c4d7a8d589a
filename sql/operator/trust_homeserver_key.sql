-- operator.trust_homeserver_key: requests signed by this key are another domain's
-- homeserver's from now on, which may have tokens (AAS-2).
--
-- public_key: Ed25519, 32 bytes. One that was distrusted is trusted again. An error if it is
-- another domain's, or the domain is the home domain. Called by the operator.
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
