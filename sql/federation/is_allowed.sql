-- federation.is_allowed: tells whether this server deals with the homeserver of a domain (FED-2). It is called in the
-- transaction that depends on it, so that a change holds at once.
--
--   domain: another domain than the home domain
--
-- Called by API functions of all services that deal with other homeservers.
CREATE OR REPLACE FUNCTION federation.is_allowed(domain text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE r.rule
           WHEN 'allowed' THEN true
           WHEN 'blocked' THEN false
           ELSE s.mode = 'open'
                AND NOT EXISTS (SELECT FROM federation.rules a
                                 WHERE a.with_below
                                   AND right(is_allowed.domain, length(a.domain) + 1) = '.' || a.domain::text) END
      FROM federation.settings s
      LEFT JOIN federation.rules r ON r.domain = is_allowed.domain
$$;
