-- auth.look_up_user: shows a user to anyone with a token (AS-5).
--
--   issuer_key, nonce: the token that pays
--   name: the part before @
--
-- Returns found, with the EID's epoch 0, the commits since in order, and the clients that have a credential (key,
-- credential, and sealed contact or null, side by side); token_spent; unknown_user.
-- Called by GET /as/users/{name}.
CREATE OR REPLACE FUNCTION auth.look_up_user(
    issuer_key smallint, nonce bytea, name text,
    OUT outcome auth.look_up_user_outcome, OUT group_info bytea, OUT ratchet_tree bytea, OUT commits bytea[],
    OUT client_keys bytea[], OUT credentials bytea[], OUT contacts bytea[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_user uuid;
    current_incarnation integer;
BEGIN
    IF NOT aas.spend_token('auth.look_up_user', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    -- The lock keeps commits out in between, so that log and clients agree.
    SELECT u.user_id INTO found_user
      FROM auth.users u
     WHERE u.name = look_up_user.name
       FOR SHARE;
    IF NOT FOUND THEN
        outcome := 'unknown_user';
        RETURN;
    END IF;
    SELECT i.incarnation, i.group_info, i.ratchet_tree INTO current_incarnation, group_info, ratchet_tree
      FROM auth.incarnations i
     WHERE i.user_id = found_user AND i.eid IS NOT NULL;
    SELECT coalesce(array_agg(l.commit ORDER BY l.epoch), '{}') INTO commits
      FROM auth.eid_log l
     WHERE l.user_id = found_user AND l.incarnation = current_incarnation;
    SELECT coalesce(array_agg(c.client_key ORDER BY c.client_key), '{}'),
           coalesce(array_agg(c.credential ORDER BY c.client_key), '{}'),
           coalesce(array_agg(c.sealed_contact ORDER BY c.client_key), '{}')
      INTO client_keys, credentials, contacts
      FROM auth.clients c
     WHERE c.user_id = found_user AND c.credential IS NOT NULL;
    outcome := 'found';
END
$$;
