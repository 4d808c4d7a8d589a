-- auth.add_signing_key: adds a new key of a service, if one is due (AS-2, QS-6, FED-1). If several server processes
-- made one, the first is taken.
--
-- The key is published at once and signs from a later midnight (UTC) on, when no cached list is without it: not before
-- max_age from now. A service without a valid key signs with it at once.
--
--   public_key: Ed25519, 32 bytes
--   sealed_seed: sealed under the server's master key
--   service: as, qs or federation
--   max_age: seconds for which clients cache the list of keys
--   endorsed_by, endorsement: of a server key, the key before it and its signature; null for the first, and for others
--
-- Returns added; not_due: another process was first.
-- Called by each server process that finds a key due.
CREATE OR REPLACE FUNCTION auth.add_signing_key(
    public_key bytea, sealed_seed bytea, service text, max_age integer, endorsed_by bytea, endorsement bytea,
    OUT outcome auth.add_signing_key_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
    first_day date;
BEGIN
    LOCK TABLE auth.signing_keys IN SHARE ROW EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM auth.due_signing_keys(ARRAY[add_signing_key.service])) THEN
        outcome := 'not_due';
        RETURN;
    END IF;
    first_day := CASE WHEN EXISTS (SELECT FROM auth.signing_keys k
                                    WHERE k.service = add_signing_key.service AND k.revoked IS NULL
                                      AND today BETWEEN k.not_before AND k.not_after)
                      THEN ((now() + make_interval(secs => max_age)) AT TIME ZONE 'UTC')::date + 1
                      ELSE today END;
    INSERT INTO auth.signing_keys (
        public_key, service, sealed_seed, not_before, not_after, endorsed_by, endorsement)
    SELECT add_signing_key.public_key, add_signing_key.service, add_signing_key.sealed_seed,
           first_day, first_day + s.signing_days, add_signing_key.endorsed_by, add_signing_key.endorsement
      FROM auth.key_settings s;
    outcome := 'added';
END
$$;
