-- qs.add_application_server_key: adds a key by which push services are to know this server (QS-10), if one is due: the
-- first, or one in place of those that the operator replaced. New subscriptions are made for it.
--
--   public_key: P-256, 65 bytes
--   sealed_private_key: sealed under the server's master key
--
-- Returns added; not_due: another server process was first.
-- Called by each server process that finds a key due.
CREATE OR REPLACE FUNCTION qs.add_application_server_key(
    public_key bytea, sealed_private_key bytea, OUT outcome qs.add_application_server_key_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE qs.application_server_keys IN SHARE ROW EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM qs.application_server_keys k WHERE NOT k.replaced) THEN
        outcome := 'not_due';
        RETURN;
    END IF;
    INSERT INTO qs.application_server_keys (public_key, sealed_private_key)
    VALUES (add_application_server_key.public_key, add_application_server_key.sealed_private_key);
    outcome := 'added';
END
$$;
