-- operator.current_master_key: shows the id of the master key under which servers seal their secrets, and of the one
-- that it replaces: null when no change is under way. An id tells nothing of its key.
--
-- Columns of the result:
--
--   key_id: id of the master key; null before the first start of a server
--   previous_id: id of the key that it replaces; null: no change is under way
--
-- Called by each server process when keys changed; by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.current_master_key()
RETURNS TABLE (key_id bytea, previous_id bytea)
LANGUAGE sql STABLE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT m.key_id, m.previous_id FROM operator.master_key m
$$;
