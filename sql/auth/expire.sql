-- auth.expire: takes credential and contact from clients that were silent for long (AS-9). If the operator wants that, it
-- erases accounts, too: those with silent clients only, and those whose identity ended as long ago without another; so many
-- at a time. A silent client stays in its user's EID, and is a client like any other again as soon as it asks for a
-- credential.
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
    abandoned_user uuid;
    erased integer := 0;
    today CONSTANT date := operator.note_day();
BEGIN
    SELECT auth.month((today - s.client_expiry_days)::timestamp AT TIME ZONE 'UTC'),
           auth.month((today - nullif(s.account_expiry_days, 0))::timestamp AT TIME ZONE 'UTC')
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
        SELECT s.user_id
          FROM (SELECT c.user_id FROM auth.clients c WHERE c.heard < account_month
                UNION
                SELECT i.user_id FROM auth.incarnations i WHERE i.ended < account_month) s
         WHERE auth.is_abandoned(s.user_id, account_month)
         LIMIT batch);
    FOREACH abandoned_user IN ARRAY abandoned LOOP
        -- A client that asks for a credential meanwhile has locked its row, and is seen once that is done.
        PERFORM FROM auth.users u WHERE u.user_id = abandoned_user FOR UPDATE;
        PERFORM FROM auth.clients c WHERE c.user_id = abandoned_user FOR UPDATE;
        IF auth.is_abandoned(abandoned_user, account_month) AND auth.erase_account(abandoned_user) THEN
            erased := erased + 1;
        END IF;
    END LOOP;
    RETURN batch IN (silent, erased);
END
$$;
