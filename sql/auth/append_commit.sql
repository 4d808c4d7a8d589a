-- auth.append_commit: accepts one commit to an EID, whatever it was sent for: the log, the state and the clients move
-- together (AS-3).
--
--   client_key: Ed25519 key of the committer, verified by the caller
--   epoch: the one that the commit ends
--   commit: the message
--   transcript: the one after it, which the committer signed
--   group_info, ratchet_tree: of the epoch that it begins, for readers
--   eid, tree_hash: the public group after it, for validation, and its tree's hash
--   state_signature: the committer's, over the new state
--   added, removed: client keys
--
-- The committer is confirmed with it, if it was not; added clients are not (AS-4).
-- Returns committed, with current_epoch after it; wrong_epoch: the identity is in another state, of current_epoch;
-- unknown_client; client_known: an added key is some user's client already; too_many_clients, too_large: by the
-- operator's limits; too_many_commits: by those of a day or in all, in number or in bytes. A commit that leaves fewer clients
-- is counted, and is never refused for them.
-- Called by auth.commit_identity and auth.rename_user, which spend the token.
CREATE OR REPLACE FUNCTION auth.append_commit(
    client_key bytea, epoch bigint, commit bytea, transcript bytea, group_info bytea, ratchet_tree bytea, eid bytea,
    tree_hash bytea, state_signature bytea, added bytea[], removed bytea[],
    OUT outcome auth.commit_identity_outcome, OUT current_epoch bigint)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
    leaves_fewer CONSTANT boolean := cardinality(append_commit.removed) > cardinality(append_commit.added);
    owner record;
    limits record;
BEGIN
    PERFORM FROM auth.users u
      WHERE u.user_id = (SELECT c.user_id FROM auth.clients c WHERE c.client_key = append_commit.client_key)
        FOR NO KEY UPDATE;
    -- The client is looked for again, now that the lock is held: it may be gone since.
    SELECT i.user_id, i.incarnation, i.epoch, i.transcript INTO owner
      FROM auth.clients c
      JOIN auth.incarnations i USING (user_id, incarnation)
     WHERE c.client_key = append_commit.client_key;
    IF NOT FOUND THEN
        outcome := 'unknown_client';
        RETURN;
    END IF;
    current_epoch := owner.epoch;
    IF current_epoch <> append_commit.epoch
       OR append_commit.transcript <> auth.following_transcript(owner.transcript, append_commit.commit) THEN
        outcome := 'wrong_epoch';
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM auth.clients c WHERE c.client_key = ANY (append_commit.added)) THEN
        outcome := 'client_known';
        RETURN;
    END IF;
    SELECT s.max_clients, s.max_identity_commits, s.identity_commits_per_day, s.max_identity_commit_bytes,
           s.max_identity_history_bytes
      INTO limits
      FROM auth.settings s;
    IF octet_length(append_commit.commit) > limits.max_identity_commit_bytes THEN
        outcome := 'too_large';
        RETURN;
    END IF;
    -- A stolen client can use up the commits of a day, and in months the history, also through others that it adds. It can
    -- still be removed then. Removals count, too: whoever adds many clients at once and removes them one by one has no more
    -- commits by that, apart from those that undo a day's last ones, of which there are fewer than max_clients.
    IF NOT leaves_fewer
       AND (owner.epoch >= limits.max_identity_commits
            OR EXISTS (SELECT FROM auth.commits_today t
                        WHERE t.user_id = owner.user_id AND t.day = today
                          AND t.commits >= limits.identity_commits_per_day)
            -- A history that is larger than readers take would be the end of all lookups.
            OR octet_length(append_commit.commit)
               + (SELECT coalesce(sum(octet_length(l.commit)), 0) FROM auth.eid_log l
                   WHERE l.user_id = owner.user_id AND l.incarnation = owner.incarnation)
               > limits.max_identity_history_bytes) THEN
        outcome := 'too_many_commits';
        RETURN;
    END IF;
    -- A user with too many clients by a new limit goes on, and gets no more.
    IF cardinality(append_commit.added) > cardinality(removed)
       AND limits.max_clients < cardinality(append_commit.added) - cardinality(removed)
                                + (SELECT count(*) FROM auth.clients c WHERE c.user_id = owner.user_id) THEN
        outcome := 'too_many_clients';
        RETURN;
    END IF;
    BEGIN
        INSERT INTO auth.eid_log (user_id, incarnation, epoch, commit)
        VALUES (owner.user_id, owner.incarnation, owner.epoch, append_commit.commit);
        UPDATE auth.incarnations i
           SET epoch = i.epoch + 1, transcript = append_commit.transcript, tree_hash = append_commit.tree_hash,
               state_signature = append_commit.state_signature, current_group_info = append_commit.group_info,
               current_ratchet_tree = append_commit.ratchet_tree, eid = append_commit.eid
         WHERE i.user_id = owner.user_id AND i.incarnation = owner.incarnation
        RETURNING i.epoch INTO current_epoch;
        INSERT INTO auth.commits_today AS t (user_id, day, commits) VALUES (owner.user_id, today, 1)
        ON CONFLICT ON CONSTRAINT commits_today_pkey DO UPDATE
           SET day = excluded.day, commits = CASE t.day WHEN excluded.day THEN t.commits + 1 ELSE 1 END;
        DELETE FROM auth.clients c WHERE c.user_id = owner.user_id AND c.client_key = ANY (removed);
        UPDATE auth.clients c SET confirmed = true
         WHERE c.client_key = append_commit.client_key AND NOT c.confirmed;
        -- In the order of keys: of two users who add the same clients one waits for the other.
        INSERT INTO auth.clients (client_key, user_id, incarnation, confirmed)
        SELECT key, owner.user_id, owner.incarnation, false FROM unnest(append_commit.added) AS key ORDER BY key;
        outcome := 'committed';
    EXCEPTION WHEN unique_violation THEN
        -- An added key became another user's client meanwhile: the commit is undone.
        outcome := 'client_known';
        current_epoch := owner.epoch;
    END;
END
$$;
