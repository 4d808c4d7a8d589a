-- auth.clean_up: forgets the attempts to register of hours that are over, and the invites that have expired.
--
-- Called by each server process every few minutes.
CREATE OR REPLACE FUNCTION auth.clean_up() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM auth.registration_attempts a WHERE a.hour < floor(extract(epoch FROM now()) / 3600)::integer;
    DELETE FROM auth.invites i WHERE i.expires < (now() AT TIME ZONE 'UTC')::date
$$;
