-- operator.prices: every endpoint that asks a token, by the name of its API function, and
-- what it costs (AAS-5). Called by the operator, and by operator.set_price.
CREATE OR REPLACE FUNCTION operator.prices()
RETURNS TABLE (endpoint text, price smallint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = operator, pg_temp AS $$
    SELECT e.endpoint, coalesce(p.price, 1::smallint)
      FROM (SELECT format('%I.%I', f.pronamespace::regnamespace, f.proname)
              FROM pg_proc f
             -- An API function names itself when it spends the token: the list cannot be
             -- longer or shorter than what is charged for.
             WHERE f.prosrc LIKE '%aas.spend\_token(''' || f.pronamespace::regnamespace || '.' || f.proname || '''%'
           ) AS e (endpoint)
      LEFT JOIN aas.prices p ON p.endpoint = e.endpoint
     ORDER BY e.endpoint
$$;
