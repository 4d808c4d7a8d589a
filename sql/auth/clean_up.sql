-- auth.clean_up: forgets what was counted in times that are over, the ID tokens that ended a day ago, and the invites that have
-- expired, and frees the names that users gave up long ago.
--
--   clock: the caller's time (seconds since 1970)
--
-- Called by each server process every few minutes.
CREATE OR REPLACE FUNCTION auth.clean_up(clock bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.note_day();
    this_month CONSTANT integer := auth.month(today::timestamp AT TIME ZONE 'UTC');
    -- By the clock that is behind. A transaction that began before a clock was set goes by what it is now.
    this_hour CONSTANT bigint := least(clean_up.clock, floor(extract(epoch FROM clock_timestamp()))::bigint) / 3600;
BEGIN
    PERFORM operator.forget_attempts('{registration,reset}');
    DELETE FROM auth.wrong_proofs w WHERE w.hour < floor(extract(epoch FROM now()) / 3600)::integer - 24;
    -- A token is good by the clock of a server. Where one of the two leaps ahead, even again and again, the other says that it
    -- did not end.
    DELETE FROM auth.used_id_tokens t WHERE t.hour < this_hour - 24;
    DELETE FROM auth.commits_today t WHERE t.day <> (now() AT TIME ZONE 'UTC')::date;
    DELETE FROM auth.account_changes c WHERE c.month < this_month;
    DELETE FROM auth.former_names f WHERE f.free <= this_month;
    DELETE FROM auth.invites i WHERE i.expires < today;
END
$$;
