-- federation.due_gateway_key: tells whether the gateway needs a new key: none will be valid for longer than the overlap.
--
-- Called by each server process at its start, hourly, and when keys changed; and by federation.add_gateway_key, under its
-- lock.
CREATE OR REPLACE FUNCTION federation.due_gateway_key() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT NOT EXISTS (SELECT FROM federation.gateway_keys k, federation.settings s
                        WHERE k.not_after > (now() AT TIME ZONE 'UTC')::date + s.gateway_overlap_days)
$$;
