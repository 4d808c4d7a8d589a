-- operator.sender_keys: lists the keys with which the DS proposes removals in groups, the newest last: whether the
-- operator replaced it, and whether it is revoked. Nobody knows how many groups carry which: their state is sealed.
--
-- Columns of the result:
--
--   public_key: as groups carry it
--   replaced: whether the operator replaced it
--   revoked: whether nothing is signed with it any more
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.sender_keys()
RETURNS TABLE (public_key bytea, replaced boolean, revoked boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.public_key, k.replaced, k.sealed_seed IS NULL FROM ds.sender_keys k ORDER BY k.number
$$;
