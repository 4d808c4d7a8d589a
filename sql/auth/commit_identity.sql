-- auth.commit_identity: one commit to an EID: the log, the state and the clients (AS-3).
--
-- client_key: the committer's, verified by the caller. epoch: the one the commit ends.
-- commit: the message. eid: the public group after it. added, removed: client keys.
-- Returns committed, token_spent, wrong_epoch (current_epoch says which it is in),
-- unknown_client, client_known (an added key is some user's client already).
-- Called by POST /as/eid/commits.
CREATE OR REPLACE FUNCTION auth.commit_identity(
    issuer_key smallint, nonce bytea, client_key bytea, epoch bigint, commit bytea, eid bytea,
    added bytea[], removed bytea[], OUT outcome text, OUT current_epoch bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    owner bigint;
BEGIN
    IF NOT aas.spend_token('auth.commit_identity', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    SELECT u.user_id, u.epoch INTO owner, current_epoch
      FROM auth.clients c
      JOIN auth.users u USING (user_id)
     WHERE c.client_key = commit_identity.client_key
       FOR UPDATE OF u;
    IF NOT FOUND THEN
        outcome := 'unknown_client';
        RETURN;
    END IF;
    IF current_epoch <> commit_identity.epoch THEN
        outcome := 'wrong_epoch';
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM auth.clients c WHERE c.client_key = ANY (commit_identity.added)) THEN
        outcome := 'client_known';
        RETURN;
    END IF;
    INSERT INTO auth.eid_log (user_id, epoch, commit) VALUES (owner, current_epoch, commit);
    UPDATE auth.users u
       SET epoch = u.epoch + 1, eid = commit_identity.eid
     WHERE u.user_id = owner
    RETURNING u.epoch INTO current_epoch;
    DELETE FROM auth.clients c WHERE c.user_id = owner AND c.client_key = ANY (removed);
    INSERT INTO auth.clients (client_key, user_id, added)
    SELECT key, owner, (now() AT TIME ZONE 'UTC')::date FROM unnest(commit_identity.added) AS key;
    outcome := 'committed';
END
$$;
