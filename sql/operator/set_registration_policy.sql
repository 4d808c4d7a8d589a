-- operator.set_registration_policy: says who can register (AS-1). Takes effect with the next request, on every server.
--
--   policy: open, everybody; invite, those with an invite; oidc, those with a login at the identity provider that the
--     servers' configuration names
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_registration_policy(policy text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE auth.settings s SET registration_policy = policy;
EXCEPTION WHEN check_violation OR not_null_violation THEN
    RAISE EXCEPTION 'there is no such policy'
        USING ERRCODE = 'check_violation', HINT = 'The policies are open, invite and oidc.';
END
$$;
