-- operator.set_group_expiry: sets the days that operator.group_expiry shows; null leaves one as it is. Takes effect
-- with the next request, on every server. A number of days that is out of bounds is an error.
--
--   inactive_days: days without a commit after which the removal of a client is proposed
--   abandoned_days: days without a message after which a group is deleted
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_group_expiry(
    inactive_days integer DEFAULT NULL, abandoned_days integer DEFAULT NULL)
RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE ds.settings s
       SET inactive_days = coalesce(set_group_expiry.inactive_days, s.inactive_days),
           abandoned_days = coalesce(set_group_expiry.abandoned_days, s.abandoned_days)
$$;
