-- operator.begin_master_key_change: begins to replace the master key by another, or goes on with it: until
-- operator.end_master_key_change, values may be sealed under either.
--
--   key_id, next_id: ids of the present key and of the one that takes its place
--
-- Returns begun; under_way: it was begun before; ended: it was done before; different: the database has another master
-- key, or another change is under way.
-- Called by `postern master-key change`.
CREATE OR REPLACE FUNCTION operator.begin_master_key_change(
    key_id bytea, next_id bytea, OUT outcome operator.begin_master_key_change_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_id bytea;
    found_previous bytea;
BEGIN
    SELECT m.key_id, m.previous_id INTO found_id, found_previous FROM operator.master_key m FOR UPDATE;
    IF found_id = begin_master_key_change.key_id AND found_previous IS NULL THEN
        UPDATE operator.master_key m
           SET key_id = begin_master_key_change.next_id, previous_id = begin_master_key_change.key_id;
        outcome := 'begun';
    ELSIF found_id = begin_master_key_change.next_id AND found_previous = begin_master_key_change.key_id THEN
        outcome := 'under_way';
    ELSIF found_id = begin_master_key_change.next_id AND found_previous IS NULL THEN
        outcome := 'ended';
    ELSE
        outcome := 'different';
    END IF;
END
$$;
