-- Backends keep the limits of deliveries in memory, as they do with the price list: whoever changes them, and however,
-- they are told.
CREATE OR REPLACE FUNCTION aas.tell_of_prices() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM postern.forget(TG_RELID);
    RETURN NULL;
END
$$;

CREATE FUNCTION qs.tell_of_settings() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM postern.forget(TG_RELID);
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION qs.tell_of_settings IS 'Trigger of qs.settings: every session reads the limits anew';
CREATE TRIGGER settings_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON qs.settings
    FOR EACH STATEMENT EXECUTE FUNCTION qs.tell_of_settings();
ALTER TABLE qs.settings ENABLE ALWAYS TRIGGER settings_changed;
