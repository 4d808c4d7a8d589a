-- auth.is_proven: tells whether a second proof, which a server verified, holds for an account (AS-8, AS-9).
--
--   user_id: the account, which the caller has locked
--   proof: what the server verified
--
-- Returns false if the account has another recovery key by now, or another login, or if the policy of registration is not
-- oidc: a login that lets nobody in proves nothing.
-- Called by auth.lock_account, auth.end_identity and auth.reset_account.
CREATE OR REPLACE FUNCTION auth.is_proven(user_id uuid, proof auth.verified_proof) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT EXISTS (SELECT FROM auth.users u
                     CROSS JOIN auth.settings s
                    WHERE u.user_id = is_proven.user_id
                      AND (u.recovery_key = (is_proven.proof).recovery_key
                           OR u.subject = (is_proven.proof).login AND s.registration_policy = 'oidc'))
$$;
