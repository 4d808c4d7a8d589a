-- operator.prices: lists every endpoint that asks for a token, by the name of its API function, and its price in tokens
-- (AAS-5).
--
-- Called by the operator and by monitoring.
CREATE OR REPLACE FUNCTION operator.prices()
RETURNS TABLE (endpoint text, price smallint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT p.endpoint, p.price FROM aas.prices p ORDER BY p.endpoint
$$;
