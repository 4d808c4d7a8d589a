-- operator.set_group_limit: changes a limit of groups. Takes effect with the next request, on every server. A group that
-- has more members than a new limit goes on, and grows no more. Limits that the commits of a group of max_members would
-- exceed are refused: raise max_commit_bytes and max_delivery_bytes before max_members and max_leaf_bytes, and lower them
-- after those.
--
--   name: one of operator.group_limits()
--   value: the new limit
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_group_limit(name text, value integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM operator.group_limits() l WHERE l.name = set_group_limit.name) THEN
        RAISE EXCEPTION 'no limit is called %', name USING HINT = 'operator.group_limits() lists all.';
    END IF;
    PERFORM operator.set_limit('ds.settings', name, value);
END
$$;
