-- federation.add_gateway_key: adds a new key of the gateway, if one is due. If several server processes made one, the first
-- is taken. It is published at once: a process that gets a request for it, and does not have it yet, loads it.
--
--   public_key: X25519, 32 bytes
--   key_id: its number, 0 to 255
--   sealed_seed: sealed under the server's master key
--
-- Returns added; not_due: another process was first; collides: another key has the number.
-- Called by each server process that finds a key due.
CREATE OR REPLACE FUNCTION federation.add_gateway_key(
    public_key bytea, key_id smallint, sealed_seed bytea, OUT outcome federation.add_gateway_key_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE federation.gateway_keys IN SHARE ROW EXCLUSIVE MODE;
    IF NOT federation.due_gateway_key() THEN
        outcome := 'not_due';
    ELSIF EXISTS (SELECT FROM federation.gateway_keys k WHERE k.key_id = add_gateway_key.key_id) THEN
        outcome := 'collides';
    ELSE
        INSERT INTO federation.gateway_keys (public_key, key_id, sealed_seed, not_after)
        SELECT add_gateway_key.public_key, add_gateway_key.key_id, add_gateway_key.sealed_seed,
               (now() AT TIME ZONE 'UTC')::date + s.gateway_key_days
          FROM federation.settings s;
        outcome := 'added';
    END IF;
END
$$;
