-- operator.rotate_gateway_keys: replaces the keys of the gateway; a server makes a new one within moments. The old ones
-- are good for the overlap.
--
--   revoke: whether the old keys' secrets may be known to somebody: they are gone at once, and requests that are sealed
--     for them are refused until their senders have fetched the new one
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.rotate_gateway_keys(revoke boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE federation.gateway_keys IN SHARE ROW EXCLUSIVE MODE;
    IF revoke THEN
        DELETE FROM federation.gateway_keys;
    ELSE
        UPDATE federation.gateway_keys k
           SET not_after = least(k.not_after, (now() AT TIME ZONE 'UTC')::date + s.gateway_overlap_days)
          FROM federation.settings s;
    END IF;
END
$$;
