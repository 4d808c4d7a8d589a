-- operator.domain_rules: lists the domains that are allowed or blocked (FED-2), with the day (UTC) of the last change.
--
-- Columns of the result (days are UTC):
--
--   domain: another domain
--   rule: `allowed` or `blocked`
--   with_below: whether domains below it are blocked, too
--   since: day of the last change
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.domain_rules()
RETURNS TABLE (domain text, rule text, with_below boolean, since date)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT r.domain, r.rule, r.with_below, r.since FROM federation.rules r ORDER BY r.domain
$$;
