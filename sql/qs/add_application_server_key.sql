-- qs.add_application_server_key: adds the key by which push services are to know this server (QS-10).
--
--   public_key: P-256, 65 bytes
--   sealed_private_key: sealed under the server's master key
--
-- Returns added; exists: another server process was first.
-- Called by a server that finds no key at its start.
CREATE OR REPLACE FUNCTION qs.add_application_server_key(
    public_key bytea, sealed_private_key bytea, OUT outcome qs.add_application_server_key_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO qs.application_server_keys (public_key, sealed_private_key)
    VALUES (add_application_server_key.public_key, add_application_server_key.sealed_private_key)
    ON CONFLICT ON CONSTRAINT application_server_keys_pkey DO NOTHING;
    outcome := CASE WHEN FOUND THEN 'added'::qs.add_application_server_key_outcome ELSE 'exists' END;
END
$$;
