-- federation.idle_homeserver: finds a homeserver that another one may take the place of: it never took a delivery of this
-- server, and the operator has made no rule for it. What it asks here does not count: anybody can ask. The one that was not
-- needed for longest comes first.
--
-- Returns its domain; null: there is none.
-- Called by federation.find_homeserver and federation.keep_homeserver, when there are as many as may be.
CREATE OR REPLACE FUNCTION federation.idle_homeserver() RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT h.domain::text
      FROM federation.homeservers h
     WHERE NOT EXISTS (SELECT FROM federation.neighbours n WHERE n.domain = h.domain)
       AND NOT EXISTS (SELECT FROM federation.rules r WHERE r.domain = h.domain)
     ORDER BY h.seen, h.issued
     LIMIT 1
$$;
