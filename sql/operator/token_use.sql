-- operator.token_use: shows what tokens were spent for, by all takers together: requests per day (UTC), endpoint and
-- price.
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.token_use()
RETURNS TABLE (day date, endpoint text, price smallint, requests bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT u.day, u.endpoint, u.price, u.requests FROM aas.token_use u ORDER BY u.day DESC, u.requests DESC
$$;
