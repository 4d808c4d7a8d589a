-- operator.allow_domain: lets this server deal with the homeserver of a domain (FED-2), whatever the policy is, from now on
-- and on every process.
--
--   domain: another domain than the home domain, without those below it
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.allow_domain(domain text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO federation.rules AS r (domain, rule, since)
    VALUES (allow_domain.domain, 'allowed', (now() AT TIME ZONE 'UTC')::date)
    ON CONFLICT ON CONSTRAINT rules_pkey DO UPDATE
       SET (rule, with_below, since) = ROW(excluded.rule, false, excluded.since)
     WHERE r.rule <> excluded.rule
$$;
