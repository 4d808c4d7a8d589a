-- operator.block_domain: keeps this server from dealing with the homeserver of a domain (FED-2), whatever the policy
-- is, from now on and on every process.
--
--   domain: another domain than the home domain
--   with_below: whether those below it are blocked, too, but for those that have rules of their own
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.block_domain(domain text, with_below boolean DEFAULT false) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO federation.rules AS r (domain, rule, with_below, since)
    VALUES (block_domain.domain, 'blocked', block_domain.with_below, (now() AT TIME ZONE 'UTC')::date)
    ON CONFLICT ON CONSTRAINT rules_pkey DO UPDATE
       SET (rule, with_below, since) = ROW(excluded.rule, excluded.with_below, excluded.since)
     WHERE r.rule <> excluded.rule OR r.with_below <> excluded.with_below
$$;
