-- aas.record_use: adds the requests with a good token that a server process counted since its last call.
--
--   endpoints: names of API functions
--   requests: for each of them, how many requests
--
-- Called by each server process every minute.
CREATE OR REPLACE FUNCTION aas.record_use(endpoints text[], requests bigint[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO aas.token_use AS u (day, endpoint, price, requests)
    SELECT (now() AT TIME ZONE 'UTC')::date, c.endpoint, coalesce(p.price, 1), c.requests
      FROM unnest(record_use.endpoints, record_use.requests) AS c (endpoint, requests)
      LEFT JOIN aas.prices p ON p.endpoint = c.endpoint
     -- All processes lock rows in this order, so none waits for another for ever.
     ORDER BY c.endpoint
    ON CONFLICT ON CONSTRAINT token_use_pkey DO UPDATE SET requests = u.requests + excluded.requests;
$$;
