-- auth.reset_account: begins the next identity of an account whose last one ended (AS-8). The same request of the same
-- client again, whose answer was lost, is answered in the same way and changes nothing.
--
--   name: the part before @
--   proof: the second proof, verified by the caller
--   client_key: Ed25519, verified by the caller
--   previous_end: last transcript of the incarnation that ended, which the new one is chained to
--   group_info, ratchet_tree: of epoch 0, for readers
--   eid, tree_hash: the public group, for validation, and its tree's hash; null where the request is not valid now: it may
--     be a repeat of one that was
--   state_signature: the client's, over its state
--   credential: the client's, signed
--
-- Returns reset, with the credential that counts: the one given, or of a repeat the one that is kept, unless auth.expire
-- took it; wrong_proof: there is no such account, the proof does not hold any more, or its ID token was used; not_ended:
-- an identity lives, or the last one ended otherwise, or there is no eid to begin one with; client_known: the key is some
-- user's client; suspended: the operator has suspended the user.
-- Called by POST /as/account/reset, after auth.find_lost_account.
CREATE OR REPLACE FUNCTION auth.reset_account(
    name text, proof auth.verified_proof, client_key bytea, previous_end bytea, group_info bytea, ratchet_tree bytea,
    eid bytea, tree_hash bytea, state_signature bytea, INOUT credential bytea,
    OUT outcome auth.reset_account_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_user uuid;
    is_suspended boolean;
    last record;
    known record;
BEGIN
    SELECT u.user_id, u.suspended INTO of_user, is_suspended
      FROM auth.users u
     WHERE u.name = reset_account.name
       FOR UPDATE;
    IF NOT FOUND OR NOT auth.is_proven(of_user, proof) THEN
        outcome := 'wrong_proof';
        RETURN;
    ELSIF is_suspended THEN
        outcome := 'suspended';
        RETURN;
    END IF;
    SELECT c.credential,
           c.user_id = of_user AND i.group_info = reset_account.group_info
               AND i.ratchet_tree = reset_account.ratchet_tree AND c.confirmed AS is_repeat
      INTO known
      FROM auth.clients c
      JOIN auth.incarnations i USING (user_id, incarnation)
     WHERE c.client_key = reset_account.client_key;
    IF FOUND THEN
        outcome := 'client_known';
        IF known.is_repeat THEN
            credential := auth.keep_credential(reset_account.client_key, known.credential, reset_account.credential);
            outcome := CASE WHEN credential IS NULL THEN outcome ELSE 'reset' END;
        END IF;
        RETURN;
    ELSIF reset_account.eid IS NULL THEN
        outcome := 'not_ended';
        RETURN;
    END IF;
    SELECT i.incarnation, i.transcript, i.eid IS NOT NULL AS lives INTO last
      FROM auth.incarnations i
     WHERE i.user_id = of_user
     ORDER BY i.incarnation DESC
     LIMIT 1;
    IF last.lives OR last.transcript <> reset_account.previous_end THEN
        outcome := 'not_ended';
        RETURN;
    ELSIF NOT auth.use_id_token(proof) THEN
        outcome := 'wrong_proof';
        RETURN;
    END IF;
    INSERT INTO auth.incarnations
        (user_id, incarnation, previous_end, group_info, ratchet_tree, founder, epoch, transcript, tree_hash,
         state_signature, eid)
    VALUES (of_user, last.incarnation + 1, last.transcript, reset_account.group_info, reset_account.ratchet_tree,
            reset_account.client_key, 0,
            auth.founding_transcript(last.transcript, reset_account.group_info, reset_account.ratchet_tree),
            reset_account.tree_hash, reset_account.state_signature, reset_account.eid);
    INSERT INTO auth.clients (client_key, user_id, incarnation, confirmed, credential)
    VALUES (reset_account.client_key, of_user, last.incarnation + 1, true, reset_account.credential);
    outcome := 'reset';
EXCEPTION WHEN unique_violation THEN
    -- The key became another user's client meanwhile.
    outcome := 'client_known';
END
$$;
