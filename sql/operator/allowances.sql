-- operator.allowances: lists how many tokens may be taken per day (UTC): first the defaults of users, of new users (for
-- each day on which they took some) and of federated domains, then the exceptions that operator.set_allowance made.
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.allowances()
RETURNS TABLE (whose text, token_type integer, tokens integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'each user', NULL::integer, s.daily_allowance FROM aas.settings s
    UNION ALL
    SELECT 'each new user', NULL, s.new_user_allowance FROM aas.settings s
    UNION ALL
    SELECT 'each domain', NULL, s.homeserver_allowance FROM aas.settings s
    UNION ALL
    (SELECT coalesce('user ' || u.name, 'domain ' || t.domain, 'each'), a.token_type, a.tokens
       FROM aas.allowances a
       LEFT JOIN aas.takers t USING (taker)
       LEFT JOIN auth.users u USING (user_id)
      ORDER BY 1, 2)
$$;
