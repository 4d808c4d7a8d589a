-- ds.clean_up: drops expired rows: the trees of Welcomes whose KeyPackages have expired, reservations of group ids that
-- led to no group within two days, and groups without a message for as long as the operator waits (DS-11).
--
-- It drops at most a thousand groups at a time.
-- Called by servers hourly.
CREATE OR REPLACE FUNCTION ds.clean_up()
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.note_day();
BEGIN
    DELETE FROM ds.welcome_trees t WHERE t.expires < today;
    DELETE FROM ds.reservations r WHERE r.reserved < today - 1;
    DELETE FROM ds.groups g
     WHERE g.group_id IN (
           SELECT l.group_id
             FROM ds.groups l, ds.settings s
            WHERE l.last_used < today - s.abandoned_days
            LIMIT 1000
              FOR UPDATE OF l SKIP LOCKED);
END
$$;
