-- operator.set_price: sets the price of an endpoint in tokens, 0 or 1 (AAS-5). At price 0 the endpoint still asks for a
-- token, and leaves it unspent.
--
--   endpoint: name of its API function, one of operator.prices()
--   price: tokens, 0 or 1
--
-- Called by the operator.
CREATE OR REPLACE FUNCTION operator.set_price(endpoint text, price integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE aas.prices p SET price = set_price.price WHERE p.endpoint = set_price.endpoint;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no endpoint is called %', endpoint USING HINT = 'operator.prices() lists all.';
    END IF;
END
$$;
