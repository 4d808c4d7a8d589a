-- auth.clean_up: forgets what was counted in times that are over, the ID tokens that ended days ago, and the invites that have
-- expired, and frees the names that users gave up long ago.
--
-- Called by each server process every few minutes.
CREATE OR REPLACE FUNCTION auth.clean_up() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.note_day();
    this_month CONSTANT integer := auth.month(today::timestamp AT TIME ZONE 'UTC');
BEGIN
    PERFORM operator.forget_attempts('{registration,reset}');
    DELETE FROM auth.wrong_proofs w WHERE w.hour < floor(extract(epoch FROM now()) / 3600)::integer - 24;
    -- A token is good by the clock of a server. The day may be two days ahead of that, where the database's clock was ahead.
    DELETE FROM auth.used_id_tokens t WHERE t.hour < (today - 3 - date '1970-01-01') * 24;
    DELETE FROM auth.account_changes c WHERE c.month < this_month;
    DELETE FROM auth.former_names f WHERE f.free <= this_month;
    DELETE FROM auth.invites i WHERE i.expires < today;
END
$$;
