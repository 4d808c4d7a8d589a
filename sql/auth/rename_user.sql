-- auth.rename_user: gives a user another name, with a commit to the EID that its client signed under that name (AS-9). The
-- clients get credentials under it, and nobody else gets the old name for a time.
--
--   issuer_key, nonce: the token that pays
--   client_key: Ed25519 key of the committer, verified by the caller
--   proof: the second proof, verified by the caller
--   name: the new one, without @domain
--   epoch to state_signature: the commit, as auth.append_commit takes it
--   client_keys, credentials: the confirmed clients and what they get, side by side
--
-- Returns renamed, with current_epoch after the commit; token_spent; unknown_client; wrong_proof: the proof does not
-- hold any more, or its ID token was used; suspended: the operator has suspended the user; name_taken: it is another
-- user's or was lately, is the operator's, or is the user's own; too_many_renames: the month's are used up, with
-- allowance and resets_in, the seconds until the next month (UTC) begins; wrong_epoch, with current_epoch;
-- too_many_commits, too_large: by the operator's limits.
-- Called by PUT /as/account/name.
CREATE OR REPLACE FUNCTION auth.rename_user(
    issuer_key smallint, nonce bytea, client_key bytea, proof auth.verified_proof, name text,
    epoch bigint, commit bytea, transcript bytea, group_info bytea, ratchet_tree bytea, eid bytea, tree_hash bytea,
    state_signature bytea, client_keys bytea[], credentials bytea[],
    OUT outcome auth.rename_user_outcome, OUT current_epoch bigint, OUT allowance integer, OUT resets_in integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    account record;
    old_name text;
    appended record;
BEGIN
    IF NOT aas.spend_token('auth.rename_user', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    SELECT a.user_id, a.proven INTO account
      FROM auth.lock_account(rename_user.client_key, rename_user.proof) a;
    IF account.user_id IS NULL THEN
        outcome := 'unknown_client';
        RETURN;
    ELSIF NOT account.proven
          OR EXISTS (SELECT FROM auth.used_id_tokens t WHERE t.digest = (rename_user.proof).id_token) THEN
        outcome := 'wrong_proof';
        RETURN;
    ELSIF EXISTS (SELECT FROM auth.users u WHERE u.user_id = account.user_id AND u.suspended) THEN
        outcome := 'suspended';
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM auth.users u
                WHERE u.name = rename_user.name
                   OR u.skeleton = postern.skeleton(rename_user.name) AND u.user_id <> account.user_id)
       OR auth.is_name_kept(postern.skeleton(rename_user.name), account.user_id) THEN
        outcome := 'name_taken';
        RETURN;
    END IF;
    SELECT m.allowance, m.resets_in INTO allowance, resets_in
      FROM auth.may_change(account.user_id, 'rename') m WHERE NOT m.may;
    IF FOUND THEN
        outcome := 'too_many_renames';
        RETURN;
    END IF;
    BEGIN
        SELECT a.outcome, a.current_epoch INTO appended
          FROM auth.append_commit(
                   rename_user.client_key, rename_user.epoch, rename_user.commit, rename_user.transcript,
                   rename_user.group_info, rename_user.ratchet_tree, rename_user.eid, rename_user.tree_hash,
                   rename_user.state_signature, '{}', '{}') a;
        current_epoch := appended.current_epoch;
        IF appended.outcome <> 'committed' THEN
            outcome := appended.outcome::text::auth.rename_user_outcome;
            RETURN;
        END IF;
        -- The account is locked: nobody used it meanwhile.
        PERFORM auth.use_id_token(proof);
        PERFORM auth.count_change(account.user_id, 'rename');
        SELECT u.name INTO old_name FROM auth.users u WHERE u.user_id = account.user_id;
        DELETE FROM auth.former_names f WHERE f.name = rename_user.name;
        INSERT INTO auth.former_names (name, user_id, free)
        SELECT old_name, account.user_id, auth.month((operator.today() + s.former_name_days)::timestamp AT TIME ZONE 'UTC') + 1
          FROM auth.settings s
         WHERE s.former_name_days > 0;
        UPDATE auth.users u SET name = rename_user.name WHERE u.user_id = account.user_id;
        UPDATE auth.clients c
           SET credential = issued.credential
          FROM unnest(rename_user.client_keys, rename_user.credentials) AS issued (client_key, credential)
         WHERE c.user_id = account.user_id AND c.client_key = issued.client_key AND c.confirmed
           AND (c.credential IS NOT NULL OR c.client_key = rename_user.client_key);
        outcome := 'renamed';
    EXCEPTION WHEN unique_violation THEN
        -- The name became another user's meanwhile: the commit is undone with the rest.
        outcome := 'name_taken';
    END;
END
$$;
