-- auth.add_signing_key: adds a key of a service, valid from today (UTC) for so many days (AS-2, QS-6).
--
--   public_key: Ed25519, 32 bytes
--   sealed_seed: sealed under the server's master key
--   service: as or qs
--
-- Returns added; exists: another server process added one today.
-- Called by a server that finds no key that lasts.
CREATE OR REPLACE FUNCTION auth.add_signing_key(
    public_key bytea, sealed_seed bytea, days integer, service text DEFAULT 'as',
    OUT outcome auth.add_signing_key_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    LOCK TABLE auth.signing_keys IN SHARE ROW EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM auth.signing_keys k
                WHERE k.service = add_signing_key.service AND k.not_before >= today) THEN
        outcome := 'exists';
        RETURN;
    END IF;
    INSERT INTO auth.signing_keys (public_key, sealed_seed, not_before, not_after, service)
    VALUES (add_signing_key.public_key, add_signing_key.sealed_seed, today, today + days,
            add_signing_key.service);
    outcome := 'added';
END
$$;
