-- ds.reserve_group_id: reserves a fresh group id (DS-1).
--
--   issuer_key, nonce: the token that pays
--   group_id: 16 random bytes
--
-- Returns reserved; token_spent; full: as many are reserved as the operator allows at a time.
-- Called by POST /ds/group-ids.
CREATE OR REPLACE FUNCTION ds.reserve_group_id(
    issuer_key smallint, nonce bytea, group_id bytea, OUT outcome ds.reserve_group_id_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    room smallint;
BEGIN
    IF NOT aas.spend_token('ds.reserve_group_id', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    -- The counters, which follow the rows, share the limit between them. Any counter that no transaction holds will do.
    -- A request that finds none waits for one after the other in order: a counter that turns out to be full stays locked.
    SELECT c.shard INTO room
      FROM ds.reservation_counts c, ds.settings s
     WHERE c.reserved < s.max_reservations / 16 + (c.shard < s.max_reservations % 16)::integer
     LIMIT 1
       FOR NO KEY UPDATE OF c SKIP LOCKED;
    IF NOT FOUND THEN
        SELECT c.shard INTO room
          FROM ds.reservation_counts c, ds.settings s
         WHERE c.reserved < s.max_reservations / 16 + (c.shard < s.max_reservations % 16)::integer
         ORDER BY c.shard
         LIMIT 1
           FOR NO KEY UPDATE OF c;
    END IF;
    IF NOT FOUND THEN
        outcome := 'full';
        RETURN;
    END IF;
    INSERT INTO ds.reservations (group_id, reserved, shard)
    VALUES (reserve_group_id.group_id, operator.today(), room);
    outcome := 'reserved';
END
$$;
