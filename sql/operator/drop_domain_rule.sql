-- operator.drop_domain_rule: leaves a domain to the policy again.
--
--   domain: one of operator.domain_rules()
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.drop_domain_rule(domain text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    DELETE FROM federation.rules r WHERE r.domain = drop_domain_rule.domain;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no rule for this domain' USING HINT = 'operator.domain_rules() lists all.';
    END IF;
END
$$;
