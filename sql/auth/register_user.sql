-- auth.register_user: registers a name with its first client and its EID in epoch 0 (AS-1, AS-3).
--
--   name: the part before @
--   client_key: Ed25519, verified by the caller
--   group_info, ratchet_tree: of epoch 0, for readers
--   eid: the public group, for validation
--   credential: the client's, signed
--
-- Returns registered, name_taken; client_known: the key is some user's client already.
-- Called by POST /as/users.
CREATE OR REPLACE FUNCTION auth.register_user(
    name text, client_key bytea, group_info bytea, ratchet_tree bytea, eid bytea, credential bytea,
    OUT outcome auth.register_user_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    new_user uuid;
BEGIN
    INSERT INTO auth.users AS u (name) VALUES (register_user.name)
    ON CONFLICT ON CONSTRAINT users_name_key DO NOTHING
    RETURNING u.user_id INTO new_user;
    IF new_user IS NULL THEN
        outcome := 'name_taken';
        RETURN;
    END IF;
    INSERT INTO auth.incarnations (user_id, incarnation, group_info, ratchet_tree, epoch, eid)
    VALUES (new_user, 0, register_user.group_info, register_user.ratchet_tree, 0, register_user.eid);
    INSERT INTO auth.clients (client_key, user_id, incarnation, credential)
    VALUES (register_user.client_key, new_user, 0, register_user.credential);
    outcome := 'registered';
EXCEPTION WHEN unique_violation THEN
    outcome := 'client_known';
END
$$;
