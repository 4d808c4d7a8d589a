-- auth.expire: takes credential and contact from clients that were silent for long (AS-9), and erases accounts all of
-- whose clients were, if the operator wants that; so many at a time. A silent client stays in its user's EID, and is a
-- client like any other again as soon as it asks for a credential.
--
-- Returns true if there may be more.
-- Called by each server process hourly, until it returns false.
CREATE OR REPLACE FUNCTION auth.expire() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    batch CONSTANT integer := 1000;
    -- auth.clients has the month in which a client was last heard of: it was on the month's last day, for all we know.
    client_month integer;
    account_month integer;
    silent integer;
    abandoned uuid[];
    user_id uuid;
BEGIN
    SELECT auth.month(now() - make_interval(days => s.client_expiry_days)),
           auth.month(now() - make_interval(days => nullif(s.account_expiry_days, 0)))
      INTO client_month, account_month
      FROM auth.settings s;
    UPDATE auth.clients c
       SET credential = NULL, sealed_contact = NULL
      FROM (SELECT o.client_key FROM auth.clients o
             WHERE o.heard < client_month AND num_nonnulls(o.credential, o.sealed_contact) > 0
             LIMIT batch FOR NO KEY UPDATE SKIP LOCKED) gone
     WHERE c.client_key = gone.client_key;
    GET DIAGNOSTICS silent = ROW_COUNT;
    abandoned := ARRAY(
        SELECT DISTINCT c.user_id
          FROM auth.clients c
         WHERE c.heard < account_month
           AND NOT EXISTS (SELECT FROM auth.clients o WHERE o.user_id = c.user_id AND o.heard >= account_month)
         LIMIT batch);
    FOREACH user_id IN ARRAY abandoned LOOP
        PERFORM auth.erase_account(user_id);
    END LOOP;
    RETURN batch IN (silent, cardinality(abandoned));
END
$$;
