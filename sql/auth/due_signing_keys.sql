-- auth.due_signing_keys: lists the services, of those that the server has, that need a new signing key: no key will be
-- valid for longer than the overlap (AS-2, QS-6, FED-1). One that begins much later was made while a clock was ahead, and
-- does not count.
--
--   services: as, qs, federation
--
-- Called by each server process at its start, hourly, and when keys changed; and by auth.add_signing_key, under its
-- lock.
CREATE OR REPLACE FUNCTION auth.due_signing_keys(services text[])
RETURNS TABLE (service text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.service
      FROM unnest(due_signing_keys.services) AS s (service)
     WHERE NOT EXISTS (SELECT FROM auth.signing_keys k, auth.key_settings t
                        WHERE k.service = s.service AND k.revoked IS NULL
                          AND k.not_after > (now() AT TIME ZONE 'UTC')::date + t.overlap_days
                          AND k.not_before <= (now() AT TIME ZONE 'UTC')::date + greatest(t.overlap_days, 3))
$$;
