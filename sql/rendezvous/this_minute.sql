-- rendezvous.this_minute: returns the present minute, in minutes since 1970.
--
-- Called by the functions of rendezvous.
CREATE OR REPLACE FUNCTION rendezvous.this_minute() RETURNS integer
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT floor(extract(epoch FROM now()) / 60)::integer
$$;
