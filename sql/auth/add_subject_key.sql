-- auth.add_subject_key: adds the key by which logins at the identity provider are digested (AS-1).
--
--   sealed_key: 32 bytes, sealed under the server's master key
--
-- Returns added; exists: another server process was first.
-- Called by a server that finds no key at its start.
CREATE OR REPLACE FUNCTION auth.add_subject_key(sealed_key bytea, OUT outcome auth.add_subject_key_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO auth.subject_keys (sealed_key) VALUES (add_subject_key.sealed_key)
    ON CONFLICT ON CONSTRAINT subject_keys_pkey DO NOTHING;
    outcome := CASE WHEN FOUND THEN 'added'::auth.add_subject_key_outcome ELSE 'exists' END;
END
$$;
