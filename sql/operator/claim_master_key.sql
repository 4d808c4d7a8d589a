-- operator.claim_master_key: makes a master key the one of this database, if it has none yet, and keeps a first digest
-- key that is sealed under it.
--
--   key_id: id of the server's master key, 8 bytes
--   sealed_digest_key: a fresh digest key, sealed under that
--
-- Returns one row: the ids of the present master key and of the one that it replaces (null: none), and outcome:
--   claimed: there was none, and it is this one from now on
--   same: it was this one already
--   different: it is another one
--
-- Called by every server process at its start.
CREATE OR REPLACE FUNCTION operator.claim_master_key(
    key_id bytea, sealed_digest_key bytea,
    OUT outcome operator.claim_master_key_outcome, OUT current_id bytea, OUT previous_id bytea)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    outcome := 'same';
    IF EXISTS (SELECT FROM operator.master_key m WHERE m.key_id IS NULL) THEN
        UPDATE operator.master_key m SET key_id = claim_master_key.key_id WHERE m.key_id IS NULL;
        IF FOUND THEN
            INSERT INTO operator.digest_key (sealed_key) VALUES (claim_master_key.sealed_digest_key);
            outcome := 'claimed';
        END IF;
    END IF;
    SELECT m.key_id, m.previous_id INTO current_id, previous_id FROM operator.master_key m;
    IF current_id <> claim_master_key.key_id THEN
        outcome := 'different';
    END IF;
END
$$;
