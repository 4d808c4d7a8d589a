-- ds.create_group: creates a group in epoch 0, under an id that was reserved (DS-1).
--
--   issuer_key, nonce: the token that pays
--   group_id: 16 bytes, as reserved
--   roster, tree: sealed by the server under the group's state key
--   ciphersuite: of the group (RFC 9420 §17.1)
--
-- Returns created; token_spent; ciphersuite_forbidden: by the operator; not_reserved: also when the group exists
-- already.
-- Called by POST /ds/groups.
CREATE OR REPLACE FUNCTION ds.create_group(
    issuer_key smallint, nonce bytea, group_id bytea, roster bytea, tree bytea,
    ciphersuite integer DEFAULT 1, OUT outcome ds.create_group_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT aas.spend_token('ds.create_group', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM operator.settings s WHERE ciphersuite = ANY (s.ciphersuites)) THEN
        outcome := 'ciphersuite_forbidden';
        RETURN;
    END IF;
    DELETE FROM ds.reservations r WHERE r.group_id = create_group.group_id;
    IF NOT FOUND THEN
        outcome := 'not_reserved';
        RETURN;
    END IF;
    INSERT INTO ds.groups (group_id, epoch, revision, roster, tree, last_used)
    VALUES (create_group.group_id, 0, 0, create_group.roster, create_group.tree,
            (now() AT TIME ZONE 'UTC')::date);
    outcome := 'created';
END
$$;
