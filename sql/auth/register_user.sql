-- auth.register_user: registers a name with its first client and its EID in epoch 0 (AS-1, AS-3). The same request of
-- the same client again, whose answer was lost, is answered in the same way and changes nothing.
--
--   name: the part before @, in its one form
--   client_key: Ed25519, verified by the caller
--   group_info, ratchet_tree: of epoch 0, for readers
--   eid: the public group, for validation; null where the request is not valid now: it may be a repeat of one that was
--   tree_hash: of that group, or null
--   state_signature: the client's, over its state
--   credential: the client's, signed
--   recovery_key: verifier of the owner's second proof (AS-8)
--   invite: digest of the invite's code, of which one use is taken; null without one
--   subject: keyed digest of the login that a verified ID token names; null without one
--
-- Returns registered, with the credential that counts: the one given, or of a repeat the one that is kept, unless
-- auth.expire took it; client_known: the key is some user's client already, whatever the name, or was it a moment ago; to
-- a key that is nobody's: not_admitted: the policy asks for an invite or a login, and this is none that is good;
-- subject_known: the login has an account; name_taken: another account has the name, or one with the same skeleton; or it
-- is kept (auth.is_name_kept).
-- Called by POST /as/users, after auth.admit_registration.
CREATE OR REPLACE FUNCTION auth.register_user(
    name text, client_key bytea, group_info bytea, ratchet_tree bytea, eid bytea, tree_hash bytea,
    state_signature bytea, INOUT credential bytea, recovery_key bytea, invite bytea, subject bytea,
    OUT outcome auth.register_user_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known record;
    policy text;
    used_invite uuid;
    new_user uuid;
    violated text;
BEGIN
    SELECT s.registration_policy INTO policy FROM auth.settings s;
    -- A repeat may meet its first request under way: it waits for it at the invite or the name, and then looks again.
    FOR attempt IN 1..2 LOOP
        SELECT c.credential,
               u.name = register_user.name AND i.incarnation = 0 AND i.group_info = register_user.group_info
                   AND i.ratchet_tree = register_user.ratchet_tree
                   AND c.confirmed AND (c.credential IS NOT NULL OR NOT u.suspended) AS is_repeat
          INTO known
          FROM auth.clients c
          JOIN auth.users u USING (user_id)
          JOIN auth.incarnations i USING (user_id, incarnation)
         WHERE c.client_key = register_user.client_key;
        IF FOUND THEN
            outcome := 'client_known';
            IF known.is_repeat THEN
                credential := auth.keep_credential(register_user.client_key, known.credential, register_user.credential);
                outcome := CASE WHEN credential IS NULL THEN outcome ELSE 'registered' END;
            END IF;
            RETURN;
        ELSIF register_user.eid IS NULL THEN
            outcome := 'client_known';
            RETURN;
        END IF;
        IF policy = 'invite' THEN
            -- Others that come by the same invite wait here, and then see what is left of it.
            SELECT i.invite INTO used_invite
              FROM auth.invites i
             WHERE i.digest = register_user.invite AND i.uses > 0 AND i.expires >= (now() AT TIME ZONE 'UTC')::date
               FOR UPDATE;
            IF NOT FOUND THEN
                outcome := 'not_admitted';
                CONTINUE;
            END IF;
        ELSIF policy = 'oidc' AND register_user.subject IS NULL THEN
            outcome := 'not_admitted';
            RETURN;
        END IF;
        INSERT INTO auth.users AS u (name, recovery_key, subject)
        VALUES (register_user.name, register_user.recovery_key, register_user.subject)
        ON CONFLICT DO NOTHING
        RETURNING u.user_id INTO new_user;
        IF new_user IS NOT NULL THEN
            INSERT INTO auth.incarnations
                (user_id, incarnation, group_info, ratchet_tree, founder, epoch, transcript, tree_hash,
                 state_signature, eid)
            VALUES (new_user, 0, register_user.group_info, register_user.ratchet_tree, register_user.client_key, 0,
                    auth.founding_transcript(NULL, register_user.group_info, register_user.ratchet_tree),
                    register_user.tree_hash, register_user.state_signature, register_user.eid);
            INSERT INTO auth.clients (client_key, user_id, incarnation, confirmed, credential)
            VALUES (register_user.client_key, new_user, 0, true, register_user.credential);
            UPDATE auth.invites i SET uses = i.uses - 1 WHERE i.invite = used_invite;
            outcome := 'registered';
            RETURN;
        END IF;
        outcome := CASE WHEN EXISTS (SELECT FROM auth.users u WHERE u.subject = register_user.subject)
                        THEN 'subject_known'::auth.register_user_outcome ELSE 'name_taken' END;
    END LOOP;
EXCEPTION WHEN unique_violation THEN
    GET STACKED DIAGNOSTICS violated = CONSTRAINT_NAME;
    -- Else the key became a client's under another name meanwhile.
    outcome := CASE violated WHEN 'names_are_free' THEN 'name_taken'::auth.register_user_outcome ELSE 'client_known' END;
END
$$;
