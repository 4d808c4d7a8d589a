-- Homeservers of other domains may have tokens (AAS-2): their keys. And prices, which are one list now (AAS-5).

CREATE SCHEMA federation AUTHORIZATION postern_owner;
COMMENT ON SCHEMA federation IS 'Homeservers of other domains';

CREATE TABLE federation.homeserver_keys (
    public_key bytea PRIMARY KEY CHECK (octet_length(public_key) = 32),
    domain operator.domain_name NOT NULL,
    pinned date NOT NULL,
    distrusted date
);
COMMENT ON TABLE federation.homeserver_keys IS
    'Keys by which homeservers of other domains sign requests. A domain may have several, as they rotate';
COMMENT ON COLUMN federation.homeserver_keys.public_key IS 'Ed25519, 32 bytes. Never changes';
COMMENT ON COLUMN federation.homeserver_keys.domain IS 'The only domain it signs for. Never changes';
COMMENT ON COLUMN federation.homeserver_keys.pinned IS 'Day (UTC) on which it was first known. Never changes';
COMMENT ON COLUMN federation.homeserver_keys.distrusted IS
    'Day (UTC) on which the operator distrusted it; null: it is trusted. The row stays, lest the key be pinned again. Changes as the operator likes';

CREATE FUNCTION federation.refuse_home_domain() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Without a home domain nobody can say that this is another one.
    IF NOT EXISTS (SELECT FROM operator.home_domain h WHERE h.domain <> NEW.domain) THEN
        RAISE EXCEPTION 'keys are pinned of other domains than the home domain, once that is set'
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION federation.refuse_home_domain IS 'Trigger: who could pin a key of the home domain would be its homeserver';

CREATE TRIGGER home_domain_is_not_pinned BEFORE INSERT OR UPDATE ON federation.homeserver_keys
    FOR EACH ROW EXECUTE FUNCTION federation.refuse_home_domain();

CREATE FUNCTION federation.refuse_other_domain() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'a homeserver key stays with its domain' USING ERRCODE = 'object_not_in_prerequisite_state';
END
$$;
COMMENT ON FUNCTION federation.refuse_other_domain IS 'Trigger: a key that changed its domain would take that one''s allowance';

CREATE TRIGGER key_stays_with_its_domain BEFORE UPDATE ON federation.homeserver_keys
    FOR EACH ROW WHEN (OLD.domain <> NEW.domain OR OLD.public_key <> NEW.public_key)
    EXECUTE FUNCTION federation.refuse_other_domain();

-- It serves homeservers, too, so its parameter gets another name.
DROP FUNCTION IF EXISTS aas.take_allowance(bytea, bytea, integer[], integer[]);

COMMENT ON TABLE aas.prices IS 'What each endpoint that asks for a token costs (AAS-5); sql/prices.sql makes the rows';
