-- operator.set_signing_key_rotation: sets how long signing keys are valid (AS-2, QS-6). Takes effect for keys that are
-- made from now on; operator.rotate_signing_keys() makes some.
--
--   signing_days: days for which a key is valid
--   overlap_days: the last of them, in which its successor is valid, too
--
-- An argument that is null leaves its setting as it is.
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_signing_key_rotation(
    signing_days integer DEFAULT NULL, overlap_days integer DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE auth.key_settings s
       SET signing_days = coalesce(set_signing_key_rotation.signing_days, s.signing_days),
           overlap_days = coalesce(set_signing_key_rotation.overlap_days, s.overlap_days);
EXCEPTION WHEN check_violation THEN
    RAISE EXCEPTION 'signing keys cannot be used like that'
        USING HINT = 'They overlap for at least 93 days, and are valid for at least twice as long, at most 3650 days.';
END
$$;
