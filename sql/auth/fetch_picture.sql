-- auth.fetch_picture: shows the picture of a user's profile to anyone with a token, under the same terms as
-- auth.look_up_user shows the user (AS-6).
--
--   issuer_key, nonce: the token that pays
--   name: the part before @
--   lookup: digest of the lookup secret that the reader shows; null without one
--
-- Returns found; token_spent; unknown_picture: there is none, or no such user for this reader.
-- Called by GET /as/users/{name}/picture.
CREATE OR REPLACE FUNCTION auth.fetch_picture(
    issuer_key smallint, nonce bytea, name text, lookup bytea, OUT outcome auth.fetch_picture_outcome, OUT picture bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT aas.spend_token('auth.fetch_picture', issuer_key, nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;
    SELECT p.picture INTO picture
      FROM (SELECT o.user_id FROM auth.users o WHERE o.shown_name = fetch_picture.name
             UNION ALL
            SELECT o.user_id
              -- OFFSET keeps the name out of the search: by the index of names a row would be read, and take time.
              FROM (SELECT h.user_id, h.name FROM auth.users h WHERE h.lookup = fetch_picture.lookup OFFSET 0) o
             WHERE o.name = fetch_picture.name
             LIMIT 1) u
      JOIN auth.profiles p USING (user_id);
    outcome := CASE WHEN picture IS NULL THEN 'unknown_picture'::auth.fetch_picture_outcome ELSE 'found' END;
END
$$;
