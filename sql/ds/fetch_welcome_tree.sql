-- ds.fetch_welcome_tree: returns the sealed ratchet tree that belongs to a joiner's Welcome (DS-7).
--
--   issuer_key, nonce: the token that pays
--   group_id: 16 bytes
--   epoch: the one that added the joiner
--   joiner: its tag, see ds.welcome_trees
--
-- Returns found, with the tree; token_spent; unknown_joiner: also once the joiner has shown up, or its KeyPackage
-- expired.
-- Called by POST /ds/groups/{group_id}/welcome-tree.
CREATE OR REPLACE FUNCTION ds.fetch_welcome_tree(
    issuer_key smallint, nonce bytea, group_id bytea, epoch bigint, joiner bytea,
    OUT outcome ds.fetch_welcome_tree_outcome, OUT tree bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT aas.spend_token('ds.fetch_welcome_tree', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    SELECT 'found'::ds.fetch_welcome_tree_outcome, t.tree INTO outcome, tree
      FROM ds.welcome_trees t
     WHERE t.group_id = fetch_welcome_tree.group_id
       AND t.epoch = fetch_welcome_tree.epoch
       AND t.joiners @> ARRAY[joiner]
       AND t.expires >= (now() AT TIME ZONE 'UTC')::date;
    IF NOT FOUND THEN
        outcome := 'unknown_joiner';
    END IF;
END
$$;
