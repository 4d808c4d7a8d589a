-- operator.homeservers: lists the homeservers of other domains whose descriptions are kept: where each is, whether this
-- server deals with it, the day (UTC) of the last look, the looks in a row that failed since, and the number of its keys
-- that are trusted.
--
-- Columns of the result (days are UTC):
--
--   domain: its domain
--   base_url: URL at which it is reached
--   allowed: whether this server deals with it
--   seen: day of the last look
--   failures: looks in a row that failed since
--   keys: number of its keys that are trusted
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.homeservers()
RETURNS TABLE (domain text, base_url text, allowed boolean, seen date, failures integer, keys integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT h.domain, h.base_url, federation.is_allowed(h.domain), h.seen, coalesce(l.failures, 0),
           (SELECT count(*)::integer FROM federation.homeserver_keys k WHERE k.domain = h.domain AND k.distrusted IS NULL)
      FROM federation.homeservers h
      LEFT JOIN federation.looks l USING (domain)
     ORDER BY h.domain
$$;
