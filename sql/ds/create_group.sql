-- ds.create_group: creates a group in epoch 0, under an id that was reserved (DS-1).
--
--   issuer_key, nonce: the token that pays
--   group_id: 16 bytes, as reserved
--   roster, tree: sealed by the server under the group's state key
--   digest: SHA-256 of the request's body, by which a repeat is recognised
--   ciphersuite: of the group (RFC 9420 §17.1)
--   leaf_domains: that of the creator's leaf, if it is another one
--   leaf_bytes: of the creator's leaf, as RFC 9420 encodes it
--
-- Returns created: also to a repeat of the request that created the group, until its first commit, whatever the operator
-- forbade or blocked meanwhile; token_spent;
-- ciphersuite_forbidden, homeserver_blocked: by the operator; leaf_too_large, with max_leaf_bytes: the operator's limit;
-- not_reserved: also when the group exists already.
-- Called by POST /ds/groups.
CREATE OR REPLACE FUNCTION ds.create_group(
    issuer_key smallint, nonce bytea, group_id bytea, roster bytea, tree bytea, digest bytea,
    ciphersuite integer, leaf_domains text[], leaf_bytes integer,
    OUT outcome ds.create_group_outcome, OUT max_leaf_bytes integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT aas.spend_token('ds.create_group', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    -- Locked: of two requests under one id, the second finds no reservation, and sees whether it is a repeat.
    PERFORM FROM ds.reservations r WHERE r.group_id = create_group.group_id FOR UPDATE;
    IF NOT FOUND THEN
        outcome := CASE WHEN EXISTS (SELECT FROM ds.groups g
                                      WHERE g.group_id = create_group.group_id
                                        AND g.epoch = 0 AND g.last_commit = create_group.digest)
                        THEN 'created'::ds.create_group_outcome ELSE 'not_reserved' END;
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM operator.settings s WHERE ciphersuite = ANY (s.ciphersuites)) THEN
        outcome := 'ciphersuite_forbidden';
        RETURN;
    END IF;
    SELECT s.max_leaf_bytes INTO STRICT max_leaf_bytes FROM ds.settings s;
    IF leaf_bytes > max_leaf_bytes THEN
        outcome := 'leaf_too_large';
        RETURN;
    END IF;
    IF NOT ds.may_deliver_to(leaf_domains) THEN
        outcome := 'homeserver_blocked';
        RETURN;
    END IF;
    DELETE FROM ds.reservations r WHERE r.group_id = create_group.group_id;
    INSERT INTO ds.groups (group_id, epoch, revision, last_commit, roster, tree, last_used)
    VALUES (create_group.group_id, 0, 0, create_group.digest, create_group.roster, create_group.tree,
            operator.today());
    outcome := 'created';
END
$$;
