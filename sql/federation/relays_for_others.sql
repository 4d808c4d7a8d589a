-- federation.relays_for_others: tells whether people of other domains may hide from their own homeserver behind this one
-- (FED-7).
--
-- Called by GET /.well-known/postern.
CREATE OR REPLACE FUNCTION federation.relays_for_others() RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.relays_for_others = 1 FROM federation.settings s
$$;
