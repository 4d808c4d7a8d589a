-- auth.look_up_user: shows a user to anyone with a token (AS-5), with a page of the history of the EID: so the cost of
-- a lookup is bounded, however long the history is.
--
--   issuer_key, nonce: the token that pays
--   name: the part before @
--   after: epoch of the EID that the reader has reached; 0 for the beginning
--
-- Returns found, with the EID's epoch 0; commits, in order, from the one that ended the epoch `after`; more, whether
-- others follow these; and the clients that have a credential (key, credential, and sealed contact or null, side by
-- side); token_spent; unknown_user.
-- Called by GET /as/users/{name}.
CREATE OR REPLACE FUNCTION auth.look_up_user(
    issuer_key smallint, nonce bytea, name text, after bigint,
    OUT outcome auth.look_up_user_outcome, OUT group_info bytea, OUT ratchet_tree bytea, OUT commits bytea[],
    OUT more boolean, OUT client_keys bytea[], OUT credentials bytea[], OUT contacts bytea[])
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_user uuid;
    current_incarnation integer;
    current_epoch bigint;
    room integer;
    entry record;
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
    SELECT i.incarnation, i.group_info, i.ratchet_tree, i.epoch, s.history_page_bytes
      INTO current_incarnation, group_info, ratchet_tree, current_epoch, room
      FROM auth.incarnations i, auth.settings s
     WHERE i.user_id = found_user AND i.eid IS NOT NULL;
    commits := '{}';
    FOR entry IN
        SELECT l.commit, octet_length(l.commit) AS bytes
          FROM auth.eid_log l
         WHERE l.user_id = found_user AND l.incarnation = current_incarnation AND l.epoch >= look_up_user.after
         ORDER BY l.epoch
    LOOP
        room := room - entry.bytes;
        EXIT WHEN room < 0 AND cardinality(commits) > 0;
        commits := array_append(commits, entry.commit);
    END LOOP;
    more := look_up_user.after + cardinality(commits) < current_epoch;
    SELECT coalesce(array_agg(c.client_key ORDER BY c.client_key), '{}'),
           coalesce(array_agg(c.credential ORDER BY c.client_key), '{}'),
           coalesce(array_agg(c.sealed_contact ORDER BY c.client_key), '{}')
      INTO client_keys, credentials, contacts
      FROM auth.clients c
     WHERE c.user_id = found_user AND c.credential IS NOT NULL;
    outcome := 'found';
END
$$;
