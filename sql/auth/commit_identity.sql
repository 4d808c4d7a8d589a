-- auth.commit_identity: accepts one commit to an EID: the log, the state and the clients move together (AS-3).
--
--   issuer_key, nonce: the token that pays
--   client_key: Ed25519 key of the committer, verified by the caller
--   the others: as auth.append_commit takes them
--
-- Returns token_spent, or what auth.append_commit returns.
-- Called by POST /as/eid/commits.
CREATE OR REPLACE FUNCTION auth.commit_identity(
    issuer_key smallint, nonce bytea, client_key bytea, epoch bigint, commit bytea, transcript bytea,
    group_info bytea, ratchet_tree bytea, eid bytea, tree_hash bytea, state_signature bytea,
    added bytea[], removed bytea[], OUT outcome auth.commit_identity_outcome, OUT current_epoch bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT aas.spend_token('auth.commit_identity', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    SELECT a.outcome, a.current_epoch INTO outcome, current_epoch
      FROM auth.append_commit(
               commit_identity.client_key, commit_identity.epoch, commit_identity.commit, commit_identity.transcript,
               commit_identity.group_info, commit_identity.ratchet_tree, commit_identity.eid,
               commit_identity.tree_hash, commit_identity.state_signature, added, removed) a;
END
$$;
