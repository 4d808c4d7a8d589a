-- operator.allowances: lists how many tokens may be taken per day (UTC): first the defaults of users, of new users (for
-- each day on which they took some), of federated domains and of new ones, then the exceptions that operator.set_allowance
-- made.
--
-- Columns of the result (days are UTC):
--
--   whose: `each user`, `each new user`, `each domain`, `each new domain`; or the user or domain that an exception is for;
--     `each` for one of a type
--   token_type: type that it is for (RFC 9578); null: all types together
--   tokens: tokens that may be taken in a day
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
    SELECT 'each new domain', NULL, s.new_homeserver_allowance FROM aas.settings s
    UNION ALL
    (SELECT coalesce('user ' || u.name, 'domain ' || t.domain, 'each'), a.token_type, a.tokens
       FROM aas.allowances a
       LEFT JOIN aas.takers t USING (taker)
       LEFT JOIN auth.users u USING (user_id)
      ORDER BY 1, 2)
$$;
