-- Backends keep the limits of deliveries in memory, as they do with the price list: whoever changes them, and however,
-- they are told. The extension's function is the trigger of both.
DROP TRIGGER prices_changed ON aas.prices;
DROP FUNCTION aas.tell_of_prices;
CREATE TRIGGER prices_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON aas.prices
    FOR EACH STATEMENT EXECUTE FUNCTION postern.forget();
ALTER TABLE aas.prices ENABLE ALWAYS TRIGGER prices_changed;

CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON qs.settings
    FOR EACH STATEMENT EXECUTE FUNCTION postern.forget();
ALTER TABLE qs.settings ENABLE ALWAYS TRIGGER settings_changed;
