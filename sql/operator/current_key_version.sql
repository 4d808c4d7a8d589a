-- operator.current_key_version: returns the version of the keys that server processes keep in memory: those of the AS,
-- the AAS, the DS and the QS, the root, and the master key. It grows with each change, however it is made.
--
-- Called by each server process every few seconds.
CREATE OR REPLACE FUNCTION operator.current_key_version()
RETURNS bigint
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.version FROM operator.key_version k;
$$;
