-- ds.fetch_group_info: returns the sealed state that an external commit starts from (DS-7, DS-8).
--
--   issuer_key, nonce: the token that pays
--   group_id: 16 bytes
--
-- Returns found, with the state and the epoch and revision that it is sealed for; token_spent; unknown_group.
-- Called by POST /ds/groups/{group_id}/group-info, which opens the state and checks the caller.
CREATE OR REPLACE FUNCTION ds.fetch_group_info(
    issuer_key smallint, nonce bytea, group_id bytea,
    OUT outcome ds.fetch_group_info_outcome, OUT epoch bigint, OUT revision integer, OUT tree bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT aas.spend_token('ds.fetch_group_info', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    SELECT 'found'::ds.fetch_group_info_outcome, g.epoch, g.revision, g.tree INTO outcome, epoch, revision, tree
      FROM ds.groups g
     WHERE g.group_id = fetch_group_info.group_id;
    IF NOT FOUND THEN
        outcome := 'unknown_group';
    END IF;
END
$$;
