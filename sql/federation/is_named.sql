-- federation.is_named: tells whether the operator allowed a domain by its name (operator.allow_domain).
--
--   domain: another domain than the home domain
--
-- Called by server processes for a homeserver that says it is at a host whose address the operator set for another domain.
CREATE OR REPLACE FUNCTION federation.is_named(domain text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM federation.rules r WHERE r.domain = is_named.domain AND r.rule = 'allowed')
$$;
