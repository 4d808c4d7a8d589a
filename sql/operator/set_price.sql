-- operator.set_price: what an endpoint costs, in tokens: 0 or 1 (AAS-5). At price 0 it still
-- asks for a token, and leaves it unspent.
--
-- endpoint: the name of its API function, one of operator.prices(). Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_price(endpoint text, price integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = operator, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM operator.prices() p WHERE p.endpoint = set_price.endpoint) THEN
        RAISE EXCEPTION 'no endpoint is called %', endpoint USING HINT = 'operator.prices() lists all.';
    END IF;
    INSERT INTO aas.prices AS p (endpoint, price) VALUES (set_price.endpoint, set_price.price)
    ON CONFLICT ON CONSTRAINT prices_pkey DO UPDATE SET price = excluded.price;
END
$$;
