-- operator.current_master_key: shows the id of the master key under which servers seal their secrets, and of the one
-- that it replaces: null when no change is under way. An id tells nothing of its key.
--
-- Called by each server process when keys changed; by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.current_master_key()
RETURNS TABLE (key_id bytea, previous_id bytea)
LANGUAGE sql STABLE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT m.key_id, m.previous_id FROM operator.master_key m
$$;
