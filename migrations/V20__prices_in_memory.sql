-- Backends keep the price list in memory (AAS-5): whoever changes it, and however, they are told.
CREATE FUNCTION aas.tell_of_prices() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM postern.forget_prices(TG_RELID);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION aas.tell_of_prices IS 'Trigger of aas.prices: every session reads the price list anew';
CREATE TRIGGER prices_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON aas.prices
    FOR EACH STATEMENT EXECUTE FUNCTION aas.tell_of_prices();
ALTER TABLE aas.prices ENABLE ALWAYS TRIGGER prices_changed;
