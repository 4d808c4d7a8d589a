-- federation.is_proven: tells whether a homeserver is a neighbour: it took a delivery, or the operator allowed it. That it
-- was seen, or asked something, shows nothing: any name can be.
--
--   domain: another domain than the home domain
--
-- Called by server processes before they look at it, or give a request to or from it a place; and by
-- federation.find_homeserver.
CREATE OR REPLACE FUNCTION federation.is_proven(domain text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM federation.neighbours n WHERE n.domain = is_proven.domain)
        OR EXISTS (SELECT FROM federation.rules r WHERE r.domain = is_proven.domain AND r.rule = 'allowed')
$$;
