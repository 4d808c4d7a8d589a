-- operator.set_key_rotation: sets how long issuer keys are used (AAS-5). Takes effect for keys that are made from now
-- on; operator.rotate_issuer_keys() makes some.
--
--   issuing_days: days for which a key issues
--   overlap_days: the last of them, in which its successor issues, too
--   redeeming_days: further days for which its tokens are good
--
-- An argument that is null leaves its setting as it is.
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_key_rotation(
    issuing_days integer DEFAULT NULL, overlap_days integer DEFAULT NULL, redeeming_days integer DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE aas.settings s
       SET issuing_days = coalesce(set_key_rotation.issuing_days, s.issuing_days),
           overlap_days = coalesce(set_key_rotation.overlap_days, s.overlap_days),
           redeeming_days = coalesce(set_key_rotation.redeeming_days, s.redeeming_days);
EXCEPTION WHEN check_violation THEN
    RAISE EXCEPTION 'issuer keys cannot be used like that'
        USING HINT = 'They issue for 10 to 365 days, overlap for 3 to 9 and half of that at most, and redeem for 1 to 365 more.';
END
$$;
