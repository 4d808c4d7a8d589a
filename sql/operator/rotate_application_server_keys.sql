-- operator.rotate_application_server_keys: replaces the key by which push services know this server; a server that sends
-- pushes makes a new one within moments. Subscriptions that were made for the old key go on.
--
--   revoke: whether the old keys' secrets may be known to somebody, or nobody uses them any more: they go, and
--     subscriptions that were made for them are over. Clients' programs have to make others.
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.rotate_application_server_keys(revoke boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE qs.application_server_keys IN SHARE ROW EXCLUSIVE MODE;
    IF revoke THEN
        DELETE FROM qs.application_server_keys;
    ELSE
        UPDATE qs.application_server_keys k SET replaced = true;
    END IF;
END
$$;
