-- auth.drop_signing_keys: drops the signing keys whose validity ended before yesterday (clocks differ): nothing counts
-- that they signed.
--
-- Called by each server process hourly.
CREATE OR REPLACE FUNCTION auth.drop_signing_keys() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    -- A statement that deletes nothing would tell all processes of a change, too.
    IF EXISTS (SELECT FROM auth.signing_keys k WHERE k.not_after < today - 1) THEN
        DELETE FROM auth.signing_keys k WHERE k.not_after < today - 1;
    END IF;
END
$$;
