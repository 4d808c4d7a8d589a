-- federation.outbox_days: returns the whole days (UTC) that a delivery to another domain waits before it is set aside, for services
-- whose own times depend on that.
--
-- Called by ds.load_group and qs.key_package_horizon.
CREATE OR REPLACE FUNCTION federation.outbox_days() RETURNS integer
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT s.outbox_days FROM federation.settings s);
END
$$;
