-- operator.signing_key_rotation: shows how long signing keys that are made from now on will be valid, in days, as
-- operator.set_signing_key_rotation explains.
--
-- Columns of the result (days are UTC):
--
--   signing_days: days for which a key is valid
--   overlap_days: last days of these, in which its successor is valid, too
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.signing_key_rotation()
RETURNS TABLE (signing_days integer, overlap_days integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.signing_days, s.overlap_days FROM auth.key_settings s
$$;
