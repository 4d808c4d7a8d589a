-- ds.load_welcome_tree: returns the sealed ratchet tree that belongs to a joiner's Welcome (DS-7).
--
--   issuer_key, nonce: the token that is to pay
--   group_id: 16 bytes
--   epoch: the one that added the joiner
--   joiner: its tag, see ds.welcome_trees
--
-- Returns one row: whether the token is spent, and if not, the tree. None also once the joiner has shown up, or its
-- KeyPackage expired.
-- Called by POST /ds/groups/{group_id}/welcome-tree, which opens the tree before it spends the token.
CREATE OR REPLACE FUNCTION ds.load_welcome_tree(
    issuer_key smallint, nonce bytea, group_id bytea, epoch bigint, joiner bytea)
RETURNS TABLE (spent boolean, tree bytea)
LANGUAGE plpgsql STABLE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    spent := aas.is_token_spent(issuer_key, nonce);
    RETURN QUERY
        SELECT load_welcome_tree.spent, CASE WHEN NOT load_welcome_tree.spent THEN t.tree END
          FROM ds.welcome_trees t
         WHERE t.group_id = load_welcome_tree.group_id
           AND t.epoch = load_welcome_tree.epoch
           AND t.joiners @> ARRAY[joiner]
           AND t.expires >= (now() AT TIME ZONE 'UTC')::date;
END
$$;
