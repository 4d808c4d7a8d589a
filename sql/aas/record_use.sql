-- aas.record_use: adds what a server process counted since its last call: requests with a
-- good token, by endpoint (the API function's name). Called every minute.
CREATE OR REPLACE FUNCTION aas.record_use(endpoints text[], requests bigint[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    INSERT INTO aas.token_use AS u (day, endpoint, price, requests)
    SELECT (now() AT TIME ZONE 'UTC')::date, c.endpoint, coalesce(p.price, 1), c.requests
      FROM unnest(record_use.endpoints, record_use.requests) AS c (endpoint, requests)
      LEFT JOIN aas.prices p ON p.endpoint = c.endpoint
     -- One order for all processes: no deadlock.
     ORDER BY c.endpoint
    ON CONFLICT ON CONSTRAINT token_use_pkey DO UPDATE SET requests = u.requests + excluded.requests;
$$;
