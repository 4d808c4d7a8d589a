-- auth.end_identity: ends the living identity of an account whose clients are lost (AS-8). All clients go with their
-- credentials and contacts. Until auth.reset_account begins the next identity, a lookup finds nobody.
--
--   name: the part before @
--   proof: the second proof, verified by the caller
--   client_key: of the client that is going to begin the next identity, verified by the caller
--
-- Returns ended, also if it ended before, with the incarnation and its last transcript; wrong_proof: there is no such
-- account, the proof does not hold any more, or its ID token was used; client_known: the key is some user's client;
-- too_many_resets: the month's are used up, with allowance and resets_in, the seconds until the next month (UTC)
-- begins.
-- Called by POST /as/account/end, after auth.find_lost_account.
CREATE OR REPLACE FUNCTION auth.end_identity(
    name text, proof auth.verified_proof, client_key bytea,
    OUT outcome auth.end_identity_outcome, OUT incarnation integer, OUT transcript bytea,
    OUT allowance integer, OUT resets_in integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_user uuid;
    lives boolean;
    may boolean;
BEGIN
    SELECT u.user_id INTO of_user
      FROM auth.users u
     WHERE u.name = end_identity.name
       FOR UPDATE;
    IF NOT FOUND OR NOT auth.is_proven(of_user, proof) THEN
        outcome := 'wrong_proof';
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM auth.clients c WHERE c.client_key = end_identity.client_key) THEN
        outcome := 'client_known';
        RETURN;
    END IF;
    SELECT i.incarnation, i.transcript, i.eid IS NOT NULL INTO incarnation, transcript, lives
      FROM auth.incarnations i
     WHERE i.user_id = of_user
     ORDER BY i.incarnation DESC
     LIMIT 1;
    IF lives THEN
        SELECT m.may, m.allowance, m.resets_in INTO may, allowance, resets_in FROM auth.may_change(of_user, 'reset') m;
        IF NOT may THEN
            outcome := 'too_many_resets';
            RETURN;
        ELSIF NOT auth.use_id_token(proof) THEN
            outcome := 'wrong_proof';
            RETURN;
        END IF;
        PERFORM auth.count_change(of_user, 'reset');
        DELETE FROM auth.clients c WHERE c.user_id = of_user;
        -- A client signed the profile that is gone. The key to it, which also shows the user to contacts, is lost with
        -- the clients: nobody could see the next identity if everybody could not.
        DELETE FROM auth.profiles p WHERE p.user_id = of_user;
        UPDATE auth.users u SET lookup = NULL WHERE u.user_id = of_user AND u.lookup IS NOT NULL;
        UPDATE auth.incarnations i
           SET eid = NULL
         WHERE i.user_id = of_user AND i.incarnation = end_identity.incarnation;
    END IF;
    outcome := 'ended';
END
$$;
