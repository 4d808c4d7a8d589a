-- auth.find_lost_account: finds what the owner of an account whose clients are lost proves the ownership with (AS-8).
--
--   name: the part before @
--
-- Returns recovery_key, null if there is no such account; login, the digest of the login that the account was registered
-- with, null if it has none, or the operator's policy is another; the number and the last transcript of the last
-- incarnation that ended, null if none did; and max_leaf_bytes, the limit of the first client's leaf.
-- Called by POST /as/account/end and POST /as/account/reset.
CREATE OR REPLACE FUNCTION auth.find_lost_account(
    name text,
    OUT max_leaf_bytes integer, OUT recovery_key bytea, OUT login bytea, OUT incarnation integer, OUT transcript bytea)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT s.max_identity_leaf_bytes, u.recovery_key, CASE WHEN s.registration_policy = 'oidc' THEN u.subject END,
           i.incarnation, i.transcript
      FROM auth.settings s
      LEFT JOIN auth.users u ON u.name = find_lost_account.name
      LEFT JOIN auth.incarnations i ON i.user_id = u.user_id AND i.eid IS NULL
     ORDER BY i.incarnation DESC NULLS LAST
     LIMIT 1
$$;
