-- auth.load_root_key: returns the domain's root, which certifies the keys of the AS (AS-2); null if there is none.
--
-- Called by each server process at its start, hourly, and when keys changed.
CREATE OR REPLACE FUNCTION auth.load_root_key()
RETURNS bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.root_key FROM auth.key_settings s
$$;
