-- operator.make_invites: makes invites, and returns their codes, which are shown this once: the database keeps digests
-- (AS-1). Case, hyphens and spaces in a code do not matter.
--
--   number: invites
--   uses: registrations for which each is good
--   days: days (UTC) for which each is good, today among them
--   note: shown by operator.invites()
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.make_invites(
    number integer DEFAULT 1, uses integer DEFAULT 1, days integer DEFAULT 14, note text DEFAULT NULL)
RETURNS TABLE (code text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    -- Crockford's base32: no letter is taken for a digit.
    alphabet CONSTANT text := '0123456789abcdefghjkmnpqrstvwxyz';
    random bytea;
    characters text;
BEGIN
    IF number IS NULL OR number NOT BETWEEN 1 AND 10000 OR uses IS NULL OR uses < 1
       OR days IS NULL OR days NOT BETWEEN 1 AND 3650
    THEN
        RAISE EXCEPTION 'these are no invites'
            USING ERRCODE = 'check_violation',
                  HINT = 'number is 1 to 10000, uses at least 1, days 1 to 3650.';
    END IF;
    FOR made IN 1..number LOOP
        -- Some bits of a random UUID are not random.
        random := sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
        SELECT string_agg(substr(alphabet, (get_byte(random, place) & 31) + 1, 1), '' ORDER BY place)
          INTO characters
          FROM generate_series(0, 15) place;
        INSERT INTO auth.invites (digest, uses, expires, note)
        VALUES (sha256('Postern invite'::bytea || '\x00'::bytea || convert_to(characters, 'UTF8')),
                make_invites.uses, operator.today() + days - 1, make_invites.note);
        code := regexp_replace(characters, '(.{4})(.{4})(.{4})(.{4})', '\1-\2-\3-\4');
        RETURN NEXT;
    END LOOP;
END
$$;
