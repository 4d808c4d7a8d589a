-- ds.propose_removal: keeps and delivers proposals of the DS (DS-10).
--
--   domain: the home domain
--   group_id: 16 bytes
--   epoch, revision: of the state that the proposals were made on
--   roster, tree: the sealed state with the proposals in it
--   addresses, parts, payloads, urgencies: what to deliver to queues that are here, as in postern.deliver
--   lanes, outbox_domains, outbox_ids, outbox_sealed: what to deliver to other domains, as in federation.enqueue
--   group_digest, gone_elsewhere: digests of the group id, and of the addresses at other domains that are gone and whose
--     members' removal is proposed: they are forgotten
--
-- Returns proposed; stale: the group changed, or is gone. It costs no token, because nobody asked for it, and pushes to
-- nobody.
-- Called after POST /ds/groups/{group_id}/messages found a queue gone, a domain blocked, or a member silent.
CREATE OR REPLACE FUNCTION ds.propose_removal(
    domain text, group_id bytea, epoch bigint, revision integer, roster bytea, tree bytea, addresses bytea[],
    parts smallint[], payloads bytea[], urgencies smallint[], lanes smallint[], outbox_domains text[], outbox_ids bytea[],
    outbox_sealed bytea[], group_digest bytea, gone_elsewhere bytea[], OUT outcome ds.propose_removal_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE ds.groups g
       SET revision = g.revision + 1, roster = propose_removal.roster, tree = propose_removal.tree
     WHERE g.group_id = propose_removal.group_id
       AND g.epoch = propose_removal.epoch AND g.revision = propose_removal.revision;
    IF NOT FOUND THEN
        outcome := 'stale';
        RETURN;
    END IF;
    IF gone_elsewhere <> '{}' THEN
        PERFORM federation.forget_gone(propose_removal.group_digest, gone_elsewhere);
    END IF;
    PERFORM postern.deliver(
        propose_removal.domain, propose_removal.group_id, addresses, parts, payloads, urgencies);
    -- Last, because other groups of the lane wait for it.
    IF outbox_domains <> '{}' THEN
        PERFORM federation.enqueue(propose_removal.lanes, outbox_domains, outbox_ids, outbox_sealed);
    END IF;
    outcome := 'proposed';
END
$$;
