-- ds.delete_group: ends a group, with everything that is kept of it (DS-11).
--
--   issuer_key, nonce: the token that pays
--   group_id: 16 bytes
--   epoch: of the state in which the caller was the only member left
--
-- Returns deleted; token_spent; wrong_epoch: the group went on, or is gone.
-- Called by DELETE /ds/groups/{group_id}.
CREATE OR REPLACE FUNCTION ds.delete_group(
    issuer_key smallint, nonce bytea, group_id bytea, epoch bigint, OUT outcome ds.delete_group_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT aas.spend_token('ds.delete_group', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    DELETE FROM ds.groups g
     WHERE g.group_id = delete_group.group_id AND g.epoch = delete_group.epoch;
    outcome := CASE WHEN FOUND THEN 'deleted'::ds.delete_group_outcome ELSE 'wrong_epoch' END;
END
$$;
