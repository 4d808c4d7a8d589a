-- qs.key_package_horizon: returns the last day (UTC) on which a KeyPackage may not expire if it is to be handed out today.
--
-- Members check a KeyPackage's lifetime when they read of its Add, and the last of them reads when the message has waited
-- for message_days and, with its chain, a day more. The inviter has another day until it adds the client.
-- Called by qs.fetch_key_packages, qs.count_key_packages and qs.publish_key_packages.
CREATE OR REPLACE FUNCTION qs.key_package_horizon() RETURNS date
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT (now() AT TIME ZONE 'UTC')::date + s.message_days + 2 FROM operator.settings s);
END
$$;
