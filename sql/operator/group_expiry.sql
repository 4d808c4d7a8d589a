-- operator.group_expiry: after how many days what goes (DS-10, DS-11): a client's removal is
-- proposed when it has not committed, a group is deleted when nobody has said anything.
--
-- Called by the operator, and by monitoring.
CREATE OR REPLACE FUNCTION operator.group_expiry(OUT inactive_days integer, OUT abandoned_days integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.inactive_days, s.abandoned_days FROM ds.settings s
$$;
