-- auth.look_up_user: shows a user to anyone with a token (AS-5). Without `after` it shows the present only, whose cost does
-- not depend on the length of the history; with it, a page of the history of bounded size.
--
--   issuer_key, nonce: the token that pays
--   name: the part before @
--   of_incarnation: the incarnation whose history is asked for; null for the one that lives
--   after: epoch of that incarnation that the reader has reached; null for no history
--   lookup: digest of the lookup secret that the reader shows; null without one. A user that is not discoverable is in
--     neither of the two indexes for a reader with another one, as a name that nobody has (AS-5)
--
-- Returns found, with the incarnation that lives: incarnation, founder, founding (the transcript of its epoch 0), epoch,
-- transcript, tree_hash, state_signature, group_info and ratchet_tree of its current epoch; the confirmed clients that
-- have a credential (key, credential, and sealed contact or null, side by side); begun and ended, the first and the last
-- transcripts of the incarnations before; commits of the incarnation that was asked for, in order, from the one that ended
-- the epoch `after`; more, whether others follow these; and, with `after` 0, that incarnation's GroupInfo and tree of epoch 0.
-- token_spent; identity_ended: no identity of the user lives until its owner begins the next one (AS-8); unknown_user.
-- Called by GET /as/users/{name}.
CREATE OR REPLACE FUNCTION auth.look_up_user(
    issuer_key smallint, nonce bytea, name text, of_incarnation integer, after bigint, lookup bytea,
    OUT outcome auth.look_up_user_outcome, OUT incarnation integer, OUT founder bytea, OUT founding bytea,
    OUT epoch bigint, OUT transcript bytea, OUT tree_hash bytea, OUT state_signature bytea, OUT group_info bytea,
    OUT ratchet_tree bytea, OUT client_keys bytea[], OUT credentials bytea[], OUT contacts bytea[], OUT begun bytea[],
    OUT ended bytea[], OUT commits bytea[], OUT more boolean, OUT founding_group_info bytea,
    OUT founding_ratchet_tree bytea, OUT profile bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found_user uuid;
    -- The epoch up to which the history goes, and the bytes that a page of it may have.
    last_epoch bigint;
    room integer;
    entry record;
BEGIN
    IF NOT aas.spend_token('auth.look_up_user', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    -- One statement sees one moment: state and clients agree, and no lock holds commits up.
    SELECT u.user_id, i.incarnation, i.founder, i.founding, i.epoch, i.transcript, i.tree_hash, i.state_signature,
           coalesce(i.current_group_info, i.group_info),
           coalesce(i.current_ratchet_tree, i.ratchet_tree), shown.client_keys, shown.credentials, shown.contacts,
           CASE WHEN i.incarnation = 0 THEN '{}'
                ELSE ARRAY(SELECT e.founding FROM auth.incarnations e
                            WHERE e.user_id = i.user_id AND e.incarnation < i.incarnation
                            ORDER BY e.incarnation) END,
           CASE WHEN i.incarnation = 0 THEN '{}'
                ELSE ARRAY(SELECT e.transcript FROM auth.incarnations e
                            WHERE e.user_id = i.user_id AND e.incarnation < i.incarnation
                            ORDER BY e.incarnation) END,
           p.profile
      INTO found_user, incarnation, founder, founding, epoch, transcript, tree_hash, state_signature, group_info,
           ratchet_tree, client_keys, credentials, contacts, begun, ended, profile
      FROM (SELECT o.user_id FROM auth.users o WHERE o.shown_name = look_up_user.name
             UNION ALL
            SELECT o.user_id
              -- OFFSET keeps the name out of the search: by the index of names a row would be read, and take time.
              FROM (SELECT h.user_id, h.name FROM auth.users h WHERE h.lookup = look_up_user.lookup OFFSET 0) o
             WHERE o.name = look_up_user.name
             LIMIT 1) u
      LEFT JOIN auth.incarnations i ON i.user_id = u.user_id AND i.eid IS NOT NULL
      LEFT JOIN auth.profiles p ON p.user_id = u.user_id
     CROSS JOIN LATERAL (
           SELECT coalesce(array_agg(c.client_key ORDER BY c.client_key), '{}') AS client_keys,
                  coalesce(array_agg(c.credential ORDER BY c.client_key), '{}') AS credentials,
                  coalesce(array_agg(c.sealed_contact ORDER BY c.client_key), '{}') AS contacts
             FROM auth.clients c
            WHERE c.user_id = i.user_id AND c.incarnation = i.incarnation AND c.credential IS NOT NULL) shown;
    IF NOT FOUND THEN
        outcome := 'unknown_user';
        RETURN;
    ELSIF incarnation IS NULL THEN
        -- For those who may see the user, an end that a reset follows is none of the account.
        outcome := 'identity_ended';
        RETURN;
    END IF;
    outcome := 'found';
    commits := '{}';
    more := false;
    IF look_up_user.after IS NULL THEN
        RETURN;
    END IF;

    of_incarnation := coalesce(of_incarnation, incarnation);
    SELECT CASE WHEN i.incarnation = look_up_user.incarnation THEN look_up_user.epoch ELSE i.epoch END,
           s.history_page_bytes,
           CASE look_up_user.after WHEN 0 THEN i.group_info END,
           CASE look_up_user.after WHEN 0 THEN i.ratchet_tree END
      INTO last_epoch, room, founding_group_info, founding_ratchet_tree
      FROM auth.incarnations i, auth.settings s
     WHERE i.user_id = found_user AND i.incarnation = of_incarnation AND i.incarnation <= look_up_user.incarnation;
    FOR entry IN
        SELECT l.commit, octet_length(l.commit) AS bytes
          FROM auth.eid_log l
         WHERE l.user_id = found_user AND l.incarnation = of_incarnation
           AND l.epoch >= look_up_user.after AND l.epoch < last_epoch
         ORDER BY l.epoch
    LOOP
        room := room - entry.bytes;
        EXIT WHEN room < 0 AND cardinality(commits) > 0;
        commits := array_append(commits, entry.commit);
    END LOOP;
    more := coalesce(look_up_user.after < last_epoch - cardinality(commits), false);
    IF more AND cardinality(commits) = 0 THEN
        -- The account was erased since the first statement, and its history with it.
        outcome := 'unknown_user';
    END IF;
END
$$;
