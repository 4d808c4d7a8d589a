-- operator.signing_keys: lists the keys with which the AS signs client credentials, and the QS batches of KeyPackages:
-- the first and last day (UTC) of validity, whether the domain's root certified it, and the day on which it was revoked.
-- The newest one that is valid signs; with a root, the newest one of the AS that is certified.
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.signing_keys()
RETURNS TABLE (service text, public_key bytea, not_before date, not_after date, certified boolean, revoked date)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.service, k.public_key, k.not_before, k.not_after,
           substr(k.certificate, 3, 32) IS NOT DISTINCT FROM s.root_key AND k.certificate IS NOT NULL, k.revoked
      FROM auth.signing_keys k, auth.key_settings s
     ORDER BY k.service, k.not_before, k.public_key
$$;
