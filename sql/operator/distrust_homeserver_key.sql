-- operator.distrust_homeserver_key: ends the trust in a key of another domain's homeserver: requests that it signs are
-- refused from now on. A key that is not known yet will not be trusted when its domain shows it.
--
--   domain: the key's domain, which is not the home domain
--   public_key: Ed25519, 32 bytes, which is not another domain's
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.distrust_homeserver_key(domain text, public_key bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    INSERT INTO federation.homeserver_keys AS k (public_key, domain, pinned, distrusted)
    VALUES (distrust_homeserver_key.public_key, distrust_homeserver_key.domain, today, today)
    ON CONFLICT ON CONSTRAINT homeserver_keys_pkey DO UPDATE
       SET distrusted = coalesce(k.distrusted, excluded.distrusted)
     WHERE k.domain = excluded.domain;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'this key is pinned to another domain' USING HINT = 'operator.homeserver_keys() lists all.';
    END IF;
END
$$;
