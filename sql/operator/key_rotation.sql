-- operator.key_rotation: shows how long issuer keys that are made from now on will be used, in days, as
-- operator.set_key_rotation explains.
--
-- Columns of the result (days are UTC):
--
--   issuing_days: days for which a key issues
--   overlap_days: last days of these, in which its successor issues, too
--   redeeming_days: days after them for which its tokens are good
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.key_rotation()
RETURNS TABLE (issuing_days integer, overlap_days integer, redeeming_days integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.issuing_days, s.overlap_days, s.redeeming_days FROM aas.settings s
$$;
