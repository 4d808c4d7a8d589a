-- operator.load_digest_key: returns the key by which servers digest what the database is not to have, sealed under the
-- master key; null before the first start of a server.
--
-- Called by every server process at its start.
CREATE OR REPLACE FUNCTION operator.load_digest_key()
RETURNS bytea
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.sealed_key FROM operator.digest_key k
$$;
