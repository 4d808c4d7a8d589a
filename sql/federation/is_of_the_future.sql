-- federation.is_of_the_future: tells whether the description of another domain's homeserver is of a time to come: the clocks of
-- both were ahead when it was kept. It counts as none, or else nothing would be newer before that time. What verifies
-- descriptions takes none of such a time (protocol/src/federation/description.rs).
--
--   issued: time of the description, in seconds since 1970
--
-- Called by federation.find_homeserver, federation.keep_homeserver and federation.choose_description.
CREATE OR REPLACE FUNCTION federation.is_of_the_future(issued bigint) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT is_of_the_future.issued > extract(epoch FROM now()) + 300
$$;
