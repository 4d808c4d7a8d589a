-- operator.rotate_signing_keys: replaces the signing keys of a service; a server makes a new one within moments. The
-- old ones stay valid for the overlap, and the newest of them signs until the new one may.
--
--   service: as, qs or federation
--   revoke: whether the old keys' secrets may be known to somebody: nothing that they signed counts from now on.
--     Clients get new credentials; until then nobody accepts theirs. With a root, the AS signs nothing before the new
--     key is certified: rotate without it, certify the new key, and revoke the old one then. Server keys are not
--     revoked so: rotate without it, and revoke the old one then.
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.rotate_signing_keys(service text, revoke boolean DEFAULT false) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    IF rotate_signing_keys.service IS NULL OR rotate_signing_keys.service NOT IN ('as', 'qs', 'federation') THEN
        RAISE EXCEPTION 'no service is called %', rotate_signing_keys.service
            USING HINT = 'as signs client credentials, qs batches of KeyPackages, federation what other homeservers are told.';
    END IF;
    IF rotate_signing_keys.service = 'federation' AND revoke THEN
        RAISE EXCEPTION 'a new server key is known to others by the signature of the old one'
            USING HINT = 'Rotate without revoke, and revoke the old key with operator.revoke_signing_key once operator.signing_keys() shows the new one.';
    END IF;
    LOCK TABLE auth.signing_keys IN SHARE ROW EXCLUSIVE MODE;
    UPDATE auth.signing_keys k
       SET not_after = CASE WHEN revoke THEN k.not_after
                            ELSE greatest(k.not_before, least(k.not_after, today + s.overlap_days)) END,
           revoked = CASE WHEN revoke THEN coalesce(k.revoked, today) ELSE k.revoked END,
           sealed_seed = CASE WHEN revoke THEN NULL ELSE k.sealed_seed END
      FROM auth.key_settings s
     WHERE k.service = rotate_signing_keys.service;
END
$$;
