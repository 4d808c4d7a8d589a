-- auth.find_lost_account: finds what the owner of an account whose clients are lost proves the ownership with (AS-8). A
-- name that nobody has takes the same work: the rows of a neighbour are read for it.
--
--   name: the part before @
--
-- Returns recovery_key, null if there is no such account; login, the digest of the login that the account was registered
-- with, null if it has none, or the operator's policy is another; the number and the last transcript of the last
-- incarnation that ended, null if none did; and max_leaf_bytes, the limit of the first client's leaf.
-- Called by POST /as/account/end and POST /as/account/reset. Not LANGUAGE sql: that would be parsed and planned at each
-- call.
CREATE OR REPLACE FUNCTION auth.find_lost_account(
    name text,
    OUT max_leaf_bytes integer, OUT recovery_key bytea, OUT login bytea, OUT incarnation integer, OUT transcript bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    SELECT s.max_identity_leaf_bytes, CASE WHEN u.is_named THEN u.recovery_key END,
           CASE WHEN u.is_named AND s.registration_policy = 'oidc' THEN u.subject END,
           CASE WHEN u.is_named THEN i.incarnation END, CASE WHEN u.is_named THEN i.transcript END
      INTO max_leaf_bytes, recovery_key, login, incarnation, transcript
      FROM auth.settings s
      -- The user of the name, or the next one in its order; beyond the last name it is the last one.
      LEFT JOIN (SELECT o.user_id, o.recovery_key, o.subject, o.name = find_lost_account.name AS is_named
                   FROM auth.users o
                  WHERE o.name >= least(find_lost_account.name, (SELECT max(l.name) FROM auth.users l))
                  ORDER BY o.name
                  LIMIT 1) u ON true
      LEFT JOIN LATERAL (SELECT e.incarnation, e.transcript
                           FROM auth.incarnations e
                          WHERE e.user_id = u.user_id AND e.eid IS NULL
                          ORDER BY e.incarnation DESC
                          LIMIT 1) i ON true;
END
$$;
