-- operator.groups: counts groups by what can be seen of them: the size class of the sealed state (bytes; it grows with
-- the members) and the day (UTC) of the last message.
--
-- Columns of the result (days are UTC):
--
--   size_class: bytes of the sealed state
--   last_used: day of the last message
--   groups: number of such groups
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.groups()
RETURNS TABLE (size_class integer, last_used date, groups bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT octet_length(g.tree), g.last_used, count(*)
      FROM ds.groups g
     GROUP BY 1, 2
     ORDER BY 1, 2
$$;
