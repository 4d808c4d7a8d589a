-- auth.load_account: finds the account of a confirmed client (AS-4), and what its owner's second proof is verified with:
-- the recovery key's verifier, and the digest of the login, null where there is none or the policy of registration is not
-- oidc.
--
-- Returns one row, or none if the key is no such client's.
-- Called by the endpoints that ask for a second proof, before they verify it; the function that they call then checks
-- again. Not LANGUAGE sql: that would be parsed and planned at each call.
CREATE OR REPLACE FUNCTION auth.load_account(client_key bytea) RETURNS TABLE (name text, recovery_key bytea, login bytea)
LANGUAGE plpgsql STABLE ROWS 1 SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
        SELECT u.name, u.recovery_key, CASE WHEN s.registration_policy = 'oidc' THEN u.subject END
          FROM auth.clients c
          JOIN auth.users u USING (user_id)
         CROSS JOIN auth.settings s
         WHERE c.client_key = load_account.client_key AND c.confirmed;
END
$$;
