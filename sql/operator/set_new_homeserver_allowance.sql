-- operator.set_new_homeserver_allowance: sets how many tokens a federated domain may take per day (UTC) that has taken no
-- delivery of this server before that day. Each day since makes it ten times as many, up to the allowance of each domain. A
-- domain that is allowed (operator.allow_domain) has the whole; an allowance of the domain's own counts instead.
--
--   tokens: at least 1; as many as the allowance of each domain, and new domains are like all others
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_new_homeserver_allowance(tokens integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM operator.set_limit('aas.settings', 'new_homeserver_allowance', tokens);
END
$$;
