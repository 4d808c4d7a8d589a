-- ds.reserve_group_id: a fresh group id for somebody to create a group under (DS-1).
--
-- group_id: 16 random bytes. Returns reserved, token_spent. Called by POST /ds/group-ids.
CREATE OR REPLACE FUNCTION ds.reserve_group_id(
    issuer_key smallint, nonce bytea, group_id bytea, OUT outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT aas.spend_token('ds.reserve_group_id', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    INSERT INTO ds.reservations (group_id, reserved)
    VALUES (reserve_group_id.group_id, (now() AT TIME ZONE 'UTC')::date);
    outcome := 'reserved';
END
$$;
