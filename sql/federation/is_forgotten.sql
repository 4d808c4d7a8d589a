-- federation.is_forgotten: tells whether nothing is left of what this server had to do with a homeserver: no description,
-- no rule, no delivery in either direction.
--
--   domain: another domain than the home domain
--
-- Called by federation.clean_up.
CREATE OR REPLACE FUNCTION federation.is_forgotten(domain text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT NOT EXISTS (SELECT FROM federation.homeservers h WHERE h.domain = is_forgotten.domain)
       AND NOT EXISTS (SELECT FROM federation.rules r WHERE r.domain = is_forgotten.domain)
       AND NOT EXISTS (SELECT FROM federation.neighbours n WHERE n.domain = is_forgotten.domain)
       AND NOT EXISTS (SELECT FROM federation.outgoing_lanes l WHERE l.domain = is_forgotten.domain)
       AND NOT EXISTS (SELECT FROM federation.incoming_lanes l WHERE l.domain = is_forgotten.domain)
$$;
