-- auth.registration_terms: tells strangers how one registers here (AS-1): the policy, as auth.settings has it.
--
-- Called by GET /as/registration.
CREATE OR REPLACE FUNCTION auth.registration_terms() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.registration_policy FROM auth.settings s
$$;
