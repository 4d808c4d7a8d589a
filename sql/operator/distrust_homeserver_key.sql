-- operator.distrust_homeserver_key: requests signed by this key are nobody's from now on. One
-- that is not known yet will not be trusted when its domain shows it.
--
-- An error if it is another domain's, or the domain is the home domain. Called by the operator.
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
