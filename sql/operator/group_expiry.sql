-- operator.group_expiry: shows after how many days the removal of a client that has not committed is proposed
-- (inactive_days; DS-10), and a group without a message is deleted (abandoned_days; DS-11).
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.group_expiry(OUT inactive_days integer, OUT abandoned_days integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.inactive_days, s.abandoned_days FROM ds.settings s
$$;
