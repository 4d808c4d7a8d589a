-- ds.submit_message: accepts a validated message: the token, the group's state and the queues of every member move
-- together or not at all (DS-4, DS-5).
--
--   issuer_key, nonce: the token that pays
--   domain: the home domain
--   group_id: 16 bytes
--   epoch, revision: of the state that the message was validated on
--   commit_digest: SHA-256 of a commit, else null
--   roster, tree: the sealed next state: both for a commit, and for a proposal by which a leaf goes; the tree for another
--     proposal; neither for an application message
--   addresses, parts, payloads, urgencies: what to deliver to queues that are here, as in postern.deliver
--   lanes, outbox_domains, outbox_ids, outbox_sealed: what to deliver to other domains, as in federation.enqueue
--   group_digest: digest of the group id, if there is any (32 bytes)
--   leaf_domains: other domains to which the message brings a leaf
--   welcome_tree, joiners: of a commit that adds members, for ds.welcome_trees
--   expires: last day (days since 1970) of the welcome_tree
--   settled: tags of joiners that have shown up, or are gone
--   users_joiners: tags of the clients of the sender's user that were added and may not have shown up; null for an admin's
--
-- Returns accepted, with current_epoch (after the message), undelivered (the number of addresses here that took nothing),
-- gone (those that never will), pushes (as postern.take_pushes), outbox_results (as federation.enqueue) and
-- gone_elsewhere (as federation.gone_addresses); token_spent; unknown_group; wrong_epoch: current_epoch is another one;
-- too_large: the payloads take more bytes in all queues here together than ds.settings.max_delivery_bytes;
-- too_many_awaited: the trees for joiners who have not shown up take more bytes than max_awaited_bytes, or those for
-- clients of a user that is no admin more than an eighth of that, and are several;
-- homeserver_blocked: the operator does not let this server deal with one of leaf_domains; stale: the group changed
-- within the epoch, or under an application message, so validate again. Stale is the one refusal that spends no token,
-- because it is nobody's fault.
-- Called by POST /ds/groups/{group_id}/messages.
CREATE OR REPLACE FUNCTION ds.submit_message(
    issuer_key smallint, nonce bytea, domain text, group_id bytea, epoch bigint, revision integer,
    commit_digest bytea, roster bytea, tree bytea, addresses bytea[], parts smallint[],
    payloads bytea[], urgencies smallint[], lanes smallint[], outbox_domains text[], outbox_ids bytea[], outbox_sealed bytea[],
    group_digest bytea, leaf_domains text[], welcome_tree bytea, joiners bytea[], expires integer, settled bytea[],
    users_joiners bytea[],
    OUT outcome ds.submit_message_outcome, OUT current_epoch bigint, OUT undelivered integer, OUT gone bytea[],
    OUT pushes bytea[], OUT outbox_results smallint[], OUT gone_elsewhere bytea[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.today();
    changes CONSTANT boolean := submit_message.tree IS NOT NULL;
    stored record;
    awaited record;
    results smallint[];
BEGIN
    -- Every transaction locks the group's row before any queue's, and those before any lane's. Application messages
    -- share it: they run side by side, and a commit waits for them.
    IF changes THEN
        SELECT g.epoch, g.revision, g.last_commit, g.last_used INTO stored
          FROM ds.groups g
         WHERE g.group_id = submit_message.group_id
           FOR NO KEY UPDATE;
    ELSE
        SELECT g.epoch, g.revision, g.last_commit, g.last_used INTO stored
          FROM ds.groups g
         WHERE g.group_id = submit_message.group_id
           FOR SHARE;
    END IF;
    current_epoch := stored.epoch;
    IF changes AND stored.epoch = submit_message.epoch
               AND stored.revision <> submit_message.revision
       OR NOT changes AND stored.epoch <> submit_message.epoch THEN
        outcome := 'stale';
        RETURN;
    END IF;
    IF NOT aas.spend_token('ds.submit_message', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    IF stored.epoch IS NULL THEN
        outcome := 'unknown_group';
        RETURN;
    END IF;
    undelivered := 0;
    gone := '{}';
    outbox_results := '{}';
    gone_elsewhere := '{}';
    IF stored.epoch <> submit_message.epoch THEN
        -- The same commit came twice at the same instant: the second gets the first one's answer.
        outcome := CASE WHEN stored.epoch = submit_message.epoch + 1
                             AND stored.last_commit = commit_digest
                        THEN 'accepted'::ds.submit_message_outcome ELSE 'wrong_epoch' END;
        RETURN;
    END IF;

    IF ds.delivery_bytes(parts, payloads) > (SELECT s.max_delivery_bytes FROM ds.settings s) THEN
        outcome := 'too_large';
        RETURN;
    END IF;
    IF submit_message.welcome_tree IS NOT NULL THEN
        -- One user cannot fill the room of all; a single client of a user always finds some there.
        SELECT octet_length(submit_message.welcome_tree) AS added, coalesce(sum(octet_length(t.tree)), 0) AS bytes,
               sum(octet_length(t.tree)) FILTER (WHERE t.joiners && users_joiners) AS users_bytes,
               (SELECT s.max_awaited_bytes FROM ds.settings s) AS most
          INTO awaited
          FROM ds.welcome_trees t
         WHERE t.group_id = submit_message.group_id AND NOT t.joiners <@ settled;
        IF awaited.added + awaited.bytes > awaited.most OR awaited.added + awaited.users_bytes > awaited.most / 8 THEN
            outcome := 'too_many_awaited';
            RETURN;
        END IF;
    END IF;
    IF NOT ds.may_deliver_to(leaf_domains) THEN
        outcome := 'homeserver_blocked';
        RETURN;
    END IF;

    IF commit_digest IS NOT NULL THEN
        UPDATE ds.groups g
           SET epoch = g.epoch + 1, revision = 0, last_commit = commit_digest,
               roster = submit_message.roster, tree = submit_message.tree, last_used = today
         WHERE g.group_id = submit_message.group_id;
        current_epoch := current_epoch + 1;
    ELSIF changes THEN
        UPDATE ds.groups g
           SET revision = g.revision + 1, tree = submit_message.tree, last_used = today,
               roster = coalesce(submit_message.roster, g.roster)
         WHERE g.group_id = submit_message.group_id;
    ELSIF stored.last_used < today THEN
        -- The first message of a day that needs not wait writes the day: two sharers of the row would deadlock.
        UPDATE ds.groups g
           SET last_used = today
          FROM (SELECT l.group_id FROM ds.groups l
                 WHERE l.group_id = submit_message.group_id
                   FOR NO KEY UPDATE SKIP LOCKED) free
         WHERE g.group_id = free.group_id;
    END IF;
    IF settled <> '{}' THEN
        UPDATE ds.welcome_trees t
           SET joiners = ARRAY(SELECT j FROM unnest(t.joiners) j WHERE j <> ALL (settled))
         WHERE t.group_id = submit_message.group_id AND t.joiners && settled;
        DELETE FROM ds.welcome_trees t
         WHERE t.group_id = submit_message.group_id AND t.joiners = '{}';
    END IF;
    IF submit_message.welcome_tree IS NOT NULL THEN
        INSERT INTO ds.welcome_trees (group_id, epoch, joiners, tree, expires)
        VALUES (submit_message.group_id, current_epoch, submit_message.joiners,
                submit_message.welcome_tree, date '1970-01-01' + submit_message.expires);
    END IF;
    results := postern.deliver(
        submit_message.domain, submit_message.group_id, addresses, parts, payloads, urgencies);
    pushes := postern.take_pushes();
    -- Last, because other groups of the lane wait for it.
    IF outbox_domains <> '{}' THEN
        outbox_results := federation.enqueue(submit_message.lanes, outbox_domains, outbox_ids, outbox_sealed);
        gone_elsewhere := federation.gone_addresses(submit_message.group_digest);
    END IF;
    IF results <> '{}' THEN
        SELECT (count(*) FILTER (WHERE d.result <> 0))::integer,
               coalesce(array_agg(d.address) FILTER (WHERE d.result = 1), '{}')
          INTO undelivered, gone
          FROM unnest(addresses, results) AS d (address, result);
    END IF;
    outcome := 'accepted';
END
$$;
