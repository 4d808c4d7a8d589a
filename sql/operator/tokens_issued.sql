-- operator.tokens_issued: shows how many tokens were issued, to all takers together, per day (UTC) and token type.
--
-- Columns of the result (days are UTC):
--
--   day: day of issuance
--   token_type: type (RFC 9578)
--   tokens: number of tokens
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.tokens_issued()
RETURNS TABLE (day date, token_type integer, tokens bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT i.day, i.token_type, sum(i.tokens)::bigint
      FROM (SELECT i.day, i.token_type, i.tokens::bigint FROM aas.issued i
            UNION ALL
            SELECT a.day, a.token_type, a.tokens FROM aas.issued_in_all a) i
     GROUP BY i.day, i.token_type
     ORDER BY i.day DESC, i.token_type
$$;
