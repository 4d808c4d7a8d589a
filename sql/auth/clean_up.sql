-- auth.clean_up: forgets the attempts to register of hours that are over.
--
-- Called by each server process every few minutes.
CREATE OR REPLACE FUNCTION auth.clean_up() RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DELETE FROM auth.registration_attempts a WHERE a.hour < floor(extract(epoch FROM now()) / 3600)::integer
$$;
