-- auth.drop_signing_keys: drops the signing keys whose validity ended before yesterday (clocks differ): nothing counts
-- that they signed. Server keys go two years later: their endorsements are of use meanwhile.
--
-- Called by each server process hourly.
CREATE OR REPLACE FUNCTION auth.drop_signing_keys() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.note_day();
BEGIN
    -- A statement that deletes nothing would tell all processes of a change, too.
    IF EXISTS (SELECT FROM auth.signing_keys k
                WHERE k.not_after < today - CASE k.service WHEN 'federation' THEN 730 ELSE 1 END) THEN
        DELETE FROM auth.signing_keys k
         WHERE k.not_after < today - CASE k.service WHEN 'federation' THEN 730 ELSE 1 END;
    END IF;
END
$$;
