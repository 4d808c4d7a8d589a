-- operator.federation_policy: tells which domains this server deals with (FED-2). open: all but those that are blocked;
-- allow_list: those that are allowed only. operator.domain_rules() lists both.
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.federation_policy() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.mode FROM federation.settings s
$$;
