-- operator.signing_keys: lists the keys with which the AS signs client credentials, the QS batches of KeyPackages, and
-- the homeserver what it tells others (federation): the first and last day (UTC) of validity, whether the domain's root
-- certified it, and the day on which it was revoked. The newest one that is valid signs; with a root, the newest one of
-- the AS that is certified.
--
-- Columns of the result (days are UTC):
--
--   service: `as`, `qs` or `federation`
--   public_key: 32 bytes, Ed25519
--   not_before: first day of validity
--   not_after: last day of validity
--   certified: whether the root certified it
--   revoked: day on which it was revoked; null: it was not
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
