-- operator.revoke_signing_key: revokes one signing key, because somebody else may know its secret: nothing that it
-- signed counts from now on. If no key is left that signs today, the next one does at once.
--
--   public_key: one of operator.signing_keys()
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.revoke_signing_key(public_key bytea) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
    of_service text;
BEGIN
    LOCK TABLE auth.signing_keys IN SHARE ROW EXCLUSIVE MODE;
    UPDATE auth.signing_keys k
       SET revoked = coalesce(k.revoked, today), sealed_seed = NULL
     WHERE k.public_key = revoke_signing_key.public_key
    RETURNING k.service INTO of_service;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no such signing key' USING HINT = 'operator.signing_keys() lists all.';
    END IF;
    IF of_service = 'federation' AND NOT EXISTS (SELECT FROM auth.signing_keys k
                                                  WHERE k.service = of_service AND k.revoked IS NULL
                                                    AND k.not_after >= today) THEN
        RAISE EXCEPTION 'this is the only server key: others know the next one by its signature'
            USING HINT = 'Make another with operator.rotate_signing_keys(''federation'') first.';
    END IF;
    IF NOT EXISTS (SELECT FROM auth.signing_keys k
                    WHERE k.service = of_service AND k.revoked IS NULL
                      AND today BETWEEN k.not_before AND k.not_after) THEN
        UPDATE auth.signing_keys k
           SET not_before = today
         WHERE k.service = of_service AND k.revoked IS NULL AND k.not_before > today;
    END IF;
END
$$;
