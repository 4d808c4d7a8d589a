-- qs.key_package_horizon: returns the last day (UTC) on which a KeyPackage may not expire if it is to be handed out today.
--
-- Members check a KeyPackage's lifetime when they read of its Add. The last of them may be at another domain: the message waits
-- for outbox_days until that takes it, then for message_days, as far as is known here, and, with its chain, a day more. The
-- inviter has another day until it adds the client. Both waits count for 60 days at most, since clients renew KeyPackages
-- that are good for less than 62.
-- Called by qs.fetch_key_packages, qs.count_key_packages and qs.publish_key_packages.
CREATE OR REPLACE FUNCTION qs.key_package_horizon() RETURNS date
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT (now() AT TIME ZONE 'UTC')::date + least(o.message_days + federation.outbox_days(), 60) + 2
              FROM operator.settings o);
END
$$;
