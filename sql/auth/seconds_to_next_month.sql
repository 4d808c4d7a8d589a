-- auth.seconds_to_next_month: tells how many seconds are left of a month (UTC).
--
-- Called by auth.end_identity and auth.rename_user, for what is limited by the month.
CREATE OR REPLACE FUNCTION auth.seconds_to_next_month(moment timestamptz) RETURNS integer
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT ceil(extract(epoch FROM date_trunc('month', moment AT TIME ZONE 'UTC') + interval '1 month'
                                   - moment AT TIME ZONE 'UTC'))::integer
$$;
