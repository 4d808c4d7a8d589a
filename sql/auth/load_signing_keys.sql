-- auth.load_signing_keys: lists the keys of a service that are still valid, or would be if they were not revoked, the
-- newest first. Server keys are listed for two years more: others that were away for long know the new ones by them.
--
--   service: as, qs or federation
--
-- Times are seconds since 1970; the last second is included. sealed_seed is null for a key that is revoked.
-- Called by each server process at its start, hourly, and when keys changed.
CREATE OR REPLACE FUNCTION auth.load_signing_keys(service text)
RETURNS TABLE (public_key bytea, sealed_seed bytea, not_before bigint, not_after bigint, certificate bytea,
               endorsed_by bytea, endorsement bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.public_key, k.sealed_seed,
           extract(epoch FROM k.not_before)::bigint,
           extract(epoch FROM k.not_after + 1)::bigint - 1,
           k.certificate, k.endorsed_by, k.endorsement
      FROM auth.signing_keys k
     WHERE k.service = load_signing_keys.service
       AND (k.service = 'federation' OR k.not_after >= (now() AT TIME ZONE 'UTC')::date)
     ORDER BY k.not_before DESC, k.not_after DESC, k.public_key
$$;
