-- auth.make_invite: keeps an invite that a user made, for one registration (AS-1). The same one again, after an answer
-- was lost, changes nothing.
--
--   issuer_key, nonce: the token that pays
--   client_key: Ed25519 key of the user's client, verified by the caller
--   digest: SHA-256 of a label and the code, which the client keeps
--
-- Returns made, with last_day, the number of days from 1970 to the last one on which the invite is good; token_spent;
-- unknown_client, also for one that is not confirmed (AS-4); suspended: the operator has suspended the user;
-- too_many_invites: the user has made as many as it can in the time of an invite, used or not, or the digest is
-- another's.
-- Called by POST /as/invites.
CREATE OR REPLACE FUNCTION auth.make_invite(
    issuer_key smallint, nonce bytea, client_key bytea, digest bytea,
    OUT outcome auth.make_invite_outcome, OUT last_day integer)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
    maker record;
    expiry date;
BEGIN
    IF NOT aas.spend_token('auth.make_invite', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    -- The lock counts the invites of a user one after the other.
    SELECT u.user_id, u.suspended, coalesce(u.invites, s.invites_per_user) AS allowance, s.invite_days
      INTO maker
      FROM auth.clients c
      JOIN auth.users u USING (user_id), auth.settings s
     WHERE c.client_key = make_invite.client_key AND c.confirmed
       FOR NO KEY UPDATE OF u;
    IF NOT FOUND THEN
        outcome := 'unknown_client';
        RETURN;
    ELSIF maker.suspended THEN
        outcome := 'suspended';
        RETURN;
    END IF;
    SELECT i.expires INTO expiry
      FROM auth.invites i
     WHERE i.digest = make_invite.digest AND i.made_by = maker.user_id;
    IF NOT FOUND
       AND (SELECT count(*) FROM auth.invites i WHERE i.made_by = maker.user_id AND i.expires >= today) < maker.allowance
    THEN
        INSERT INTO auth.invites AS i (digest, uses, expires, made_by)
        VALUES (make_invite.digest, 1, operator.today() + maker.invite_days - 1, maker.user_id)
        ON CONFLICT ON CONSTRAINT invites_digest_key DO NOTHING
        RETURNING i.expires INTO expiry;
    END IF;
    last_day := expiry - date '1970-01-01';
    outcome := CASE WHEN expiry IS NULL THEN 'too_many_invites'::auth.make_invite_outcome ELSE 'made' END;
END
$$;
