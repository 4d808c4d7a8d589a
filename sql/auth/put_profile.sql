-- auth.put_profile: replaces the profile of a user by a later version (AS-6).
--
--   issuer_key, nonce: the token that pays
--   client_key: Ed25519 key of the client, verified by the caller
--   incarnation, version: of the profile
--   profile: signed, as readers get it
--   picture_digest: SHA-256 of the picture that the profile names; null: it names none
--   picture: that picture; null: it is the one that is kept
--   lookup: digest of the secret by which alone the user can be looked up; null: everybody can
--
-- Returns kept; token_spent; unknown_client, also for one of another incarnation; outdated: the version does not follow
-- that of the profile that is kept, or skips more than a million, so that no client can use up all numbers; no_picture:
-- the picture that is kept is another one.
-- Called by PUT /as/profile.
CREATE OR REPLACE FUNCTION auth.put_profile(
    issuer_key smallint, nonce bytea, client_key bytea, incarnation integer, version bigint, profile bytea,
    picture_digest bytea, picture bytea, lookup bytea, OUT outcome auth.put_profile_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    of_user uuid;
    kept_version bigint;
    kept_picture bytea;
BEGIN
    IF NOT aas.spend_token('auth.put_profile', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    PERFORM FROM auth.users u
      WHERE u.user_id = (SELECT c.user_id FROM auth.clients c WHERE c.client_key = put_profile.client_key)
        FOR NO KEY UPDATE;
    -- The client is looked for again, now that the lock is held: it may be gone since.
    SELECT c.user_id INTO of_user
      FROM auth.clients c
     WHERE c.client_key = put_profile.client_key AND c.incarnation = put_profile.incarnation AND c.confirmed;
    IF NOT FOUND THEN
        outcome := 'unknown_client';
        RETURN;
    END IF;
    SELECT p.version, p.picture INTO kept_version, kept_picture FROM auth.profiles p WHERE p.user_id = of_user;
    IF version - coalesce(kept_version, 0) NOT BETWEEN 1 AND 1000000 THEN
        outcome := 'outdated';
        RETURN;
    END IF;
    IF picture_digest IS NULL THEN
        picture := NULL;
    ELSIF picture IS NULL THEN
        picture := kept_picture;
        IF picture IS NULL OR sha256(picture) <> picture_digest THEN
            outcome := 'no_picture';
            RETURN;
        END IF;
    END IF;
    INSERT INTO auth.profiles AS p (user_id, version, profile, picture)
    VALUES (of_user, put_profile.version, put_profile.profile, put_profile.picture)
    ON CONFLICT ON CONSTRAINT profiles_pkey DO UPDATE
       SET version = excluded.version, profile = excluded.profile, picture = excluded.picture;
    UPDATE auth.users u
       SET lookup = put_profile.lookup
     WHERE u.user_id = of_user AND u.lookup IS DISTINCT FROM put_profile.lookup;
    outcome := 'kept';
END
$$;
