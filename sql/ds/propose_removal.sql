-- ds.propose_removal: keeps and delivers proposals of the DS (DS-10).
--
--   domain: the home domain
--   group_id: 16 bytes
--   epoch, revision: of the state that the proposals were made on
--   roster, tree: the sealed state with the proposals in it
--   addresses: 32 bytes each
--   payloads: the proposals, each delivered to each of them
--
-- Returns proposed; stale: the group changed, or is gone. It costs no token, because nobody asked for it, and pushes to
-- nobody.
-- Called after POST /ds/groups/{group_id}/messages found a queue gone or a member silent.
CREATE OR REPLACE FUNCTION ds.propose_removal(
    domain text, group_id bytea, epoch bigint, revision integer, roster bytea, tree bytea,
    addresses bytea[], payloads bytea[], OUT outcome ds.propose_removal_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    payload bytea;
BEGIN
    UPDATE ds.groups g
       SET revision = g.revision + 1, roster = propose_removal.roster, tree = propose_removal.tree
     WHERE g.group_id = propose_removal.group_id
       AND g.epoch = propose_removal.epoch AND g.revision = propose_removal.revision;
    IF NOT FOUND THEN
        outcome := 'stale';
        RETURN;
    END IF;
    FOREACH payload IN ARRAY payloads LOOP
        PERFORM postern.deliver(
            propose_removal.domain, propose_removal.group_id, addresses,
            array_fill(1::smallint, ARRAY[cardinality(addresses)]), ARRAY[payload],
            ARRAY[0::smallint]);
    END LOOP;
    outcome := 'proposed';
END
$$;
