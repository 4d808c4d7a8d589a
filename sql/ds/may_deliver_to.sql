-- ds.may_deliver_to: tells whether leaves may come to homeservers of other domains (FED-2).
--
--   domains: other domains than the home domain
--
-- Called by ds.create_group and ds.submit_message. Not LANGUAGE sql: most groups have no such leaf, and ask for nothing.
CREATE OR REPLACE FUNCTION ds.may_deliver_to(domains text[]) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN domains = '{}'
        OR NOT EXISTS (SELECT FROM unnest(domains) AS d (domain) WHERE NOT federation.is_allowed(d.domain));
END
$$;
