-- operator.registration_policy: shows who can register: open, invite or oidc (AS-1).
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.registration_policy() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.registration_policy FROM auth.settings s
$$;
