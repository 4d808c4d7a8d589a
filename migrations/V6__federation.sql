-- Federation: keys of homeservers of other domains, which may have tokens (AAS-2).

CREATE TABLE federation.homeserver_keys (
    public_key bytea PRIMARY KEY CHECK (octet_length(public_key) = 32),
    domain operator.domain_name NOT NULL,
    pinned date NOT NULL,
    distrusted date
);
COMMENT ON TABLE federation.homeserver_keys IS
    'Keys with which homeservers of other domains sign requests. A domain may have several, since keys rotate';
COMMENT ON COLUMN federation.homeserver_keys.public_key IS 'Ed25519 public key (32 bytes). Never changes';
COMMENT ON COLUMN federation.homeserver_keys.domain IS 'Domain that the key signs for, and no other. Never changes';
COMMENT ON COLUMN federation.homeserver_keys.pinned IS 'Day (UTC) on which the key was first known. Never changes';
COMMENT ON COLUMN federation.homeserver_keys.distrusted IS
    'Day (UTC) on which the operator distrusted the key; null: it is trusted. The row stays, so that the key is not pinned again. Changes as the operator likes';

CREATE FUNCTION federation.refuse_home_domain() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- Without a home domain nobody can say that this is another one.
    IF NOT EXISTS (SELECT FROM operator.settings s WHERE s.home_domain <> NEW.domain) THEN
        RAISE EXCEPTION 'keys are pinned of other domains than the home domain, once that is set'
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END
$$;
COMMENT ON FUNCTION federation.refuse_home_domain IS
    'Trigger of federation.homeserver_keys: a pinned key of the home domain would make its holder this homeserver';

CREATE TRIGGER home_domain_is_not_pinned BEFORE INSERT OR UPDATE ON federation.homeserver_keys
    FOR EACH ROW EXECUTE FUNCTION federation.refuse_home_domain();

CREATE FUNCTION federation.refuse_other_domain() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'a homeserver key stays with its domain' USING ERRCODE = 'object_not_in_prerequisite_state';
END
$$;
COMMENT ON FUNCTION federation.refuse_other_domain IS
    'Trigger of federation.homeserver_keys: a key that changed its domain would take the other one''s allowance';

CREATE TRIGGER key_stays_with_its_domain BEFORE UPDATE ON federation.homeserver_keys
    FOR EACH ROW WHEN (OLD.domain <> NEW.domain OR OLD.public_key <> NEW.public_key)
    EXECUTE FUNCTION federation.refuse_other_domain();
