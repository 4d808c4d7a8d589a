-- operator.show_user: shows what the server knows of a user: whether it is suspended; its clients, and how many of them
-- have a credential; the number of resets and the epoch of its identity; whether it registered with a login at the
-- identity provider; its own allowance of tokens per day (null: the default holds); its own number of invites (null: the
-- default holds), and those it made that have not expired.
--
--   user_name: without @ and domain
--
-- Columns of the result (days are UTC):
--
--   name: as it is shown
--   suspended: whether the operator suspended the user
--   clients: number of clients
--   credentials: how many of them have a credential
--   resets: number of resets of the account
--   epoch: commits to the identity since the last reset
--   has_login: whether the user registered with a login
--   tokens: tokens per day of its own; null: the default
--   invites: invites that it can make, of its own; null: the default
--   invites_made: invites that it made and that have not expired
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.show_user(
    user_name text,
    OUT name text, OUT suspended boolean, OUT clients bigint, OUT credentials bigint, OUT resets integer,
    OUT epoch bigint, OUT has_login boolean, OUT tokens integer, OUT invites integer, OUT invites_made bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    shown CONSTANT uuid := auth.find_user(user_name);
BEGIN
    SELECT u.name, u.suspended, u.subject IS NOT NULL, u.invites, i.incarnation, i.epoch
      INTO name, suspended, has_login, invites, resets, epoch
      FROM auth.users u
      JOIN auth.incarnations i USING (user_id)
     WHERE u.user_id = shown
     ORDER BY i.incarnation DESC
     LIMIT 1;
    SELECT count(*), count(c.credential) INTO clients, credentials FROM auth.clients c WHERE c.user_id = shown;
    SELECT a.tokens INTO tokens
      FROM aas.allowances a
      JOIN aas.takers t USING (taker)
     WHERE t.user_id = shown AND a.token_type IS NULL;
    SELECT count(*) INTO invites_made
      FROM auth.invites i
     WHERE i.made_by = shown AND i.expires >= (now() AT TIME ZONE 'UTC')::date;
END
$$;
