-- auth.commit_identity: accepts one commit to an EID: the log, the state and the clients move together (AS-3).
--
--   issuer_key, nonce: the token that pays
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
-- Returns committed, with current_epoch after it; token_spent; wrong_epoch: the identity is in another state, of
-- current_epoch;
-- unknown_client; client_known: an added key is some user's client already; too_many_clients, too_many_commits,
-- too_large: by the operator's limits.
-- Called by POST /as/eid/commits.
CREATE OR REPLACE FUNCTION auth.commit_identity(
    issuer_key smallint, nonce bytea, client_key bytea, epoch bigint, commit bytea, transcript bytea,
    group_info bytea, ratchet_tree bytea, eid bytea, tree_hash bytea, state_signature bytea,
    added bytea[], removed bytea[], OUT outcome auth.commit_identity_outcome, OUT current_epoch bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner record;
    limits record;
BEGIN
    IF NOT aas.spend_token('auth.commit_identity', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    PERFORM FROM auth.users u
      WHERE u.user_id = (SELECT c.user_id FROM auth.clients c WHERE c.client_key = commit_identity.client_key)
        FOR NO KEY UPDATE;
    -- The client is looked for again, now that the lock is held: it may be gone since.
    SELECT i.user_id, i.incarnation, i.epoch, i.transcript INTO owner
      FROM auth.clients c
      JOIN auth.incarnations i USING (user_id, incarnation)
     WHERE c.client_key = commit_identity.client_key;
    IF NOT FOUND THEN
        outcome := 'unknown_client';
        RETURN;
    END IF;
    current_epoch := owner.epoch;
    IF current_epoch <> commit_identity.epoch
       OR commit_identity.transcript <> auth.following_transcript(owner.transcript, commit_identity.commit) THEN
        outcome := 'wrong_epoch';
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM auth.clients c WHERE c.client_key = ANY (commit_identity.added)) THEN
        outcome := 'client_known';
        RETURN;
    END IF;
    SELECT s.max_clients, s.max_identity_commits, s.max_identity_commit_bytes INTO limits FROM auth.settings s;
    IF octet_length(commit_identity.commit) > limits.max_identity_commit_bytes THEN
        outcome := 'too_large';
        RETURN;
    END IF;
    -- A stolen client can fill the history, and can still be removed then.
    IF owner.epoch >= limits.max_identity_commits
       AND cardinality(removed) <= cardinality(commit_identity.added) THEN
        outcome := 'too_many_commits';
        RETURN;
    END IF;
    -- A user with too many clients by a new limit goes on, and gets no more.
    IF cardinality(commit_identity.added) > cardinality(removed)
       AND limits.max_clients < cardinality(commit_identity.added) - cardinality(removed)
                                + (SELECT count(*) FROM auth.clients c WHERE c.user_id = owner.user_id) THEN
        outcome := 'too_many_clients';
        RETURN;
    END IF;
    INSERT INTO auth.eid_log (user_id, incarnation, epoch, commit)
    VALUES (owner.user_id, owner.incarnation, owner.epoch, commit_identity.commit);
    UPDATE auth.incarnations i
       SET epoch = i.epoch + 1, transcript = commit_identity.transcript, tree_hash = commit_identity.tree_hash,
           state_signature = commit_identity.state_signature, current_group_info = commit_identity.group_info,
           current_ratchet_tree = commit_identity.ratchet_tree, eid = commit_identity.eid
     WHERE i.user_id = owner.user_id AND i.incarnation = owner.incarnation
    RETURNING i.epoch INTO current_epoch;
    DELETE FROM auth.clients c WHERE c.user_id = owner.user_id AND c.client_key = ANY (removed);
    UPDATE auth.clients c SET confirmed = true
     WHERE c.client_key = commit_identity.client_key AND NOT c.confirmed;
    INSERT INTO auth.clients (client_key, user_id, incarnation, confirmed)
    SELECT key, owner.user_id, owner.incarnation, false FROM unnest(commit_identity.added) AS key;
    outcome := 'committed';
END
$$;
