-- auth.load_subject_key: returns the key by which logins at the identity provider are digested, sealed under the master
-- key (AS-1).
--
-- Returns null before the first key.
-- Called by a server at its start, if it has an identity provider.
CREATE OR REPLACE FUNCTION auth.load_subject_key() RETURNS bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.sealed_key FROM auth.subject_keys k
$$;
