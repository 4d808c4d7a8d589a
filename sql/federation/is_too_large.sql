-- federation.is_too_large: tells whether deliveries of another domain's homeserver take more room than those of a group
-- here may (DS-13).
--
--   parts, payloads: as in postern.deliver
--
-- Called by qs.receive_deliveries, which knows nothing of groups.
CREATE OR REPLACE FUNCTION federation.is_too_large(parts smallint[], payloads bytea[]) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ds.delivery_bytes(parts, payloads) > s.max_delivery_bytes FROM ds.settings s
$$;
