-- ds.add_sender_key: adds a key with which the DS proposes in groups (DS-10), if one is due: the first, or one in place
-- of those that the operator replaced. New groups carry it.
--
--   public_key: Ed25519, 32 bytes
--   sealed_seed: sealed under the server's master key
--
-- Returns added; not_due: another server process was first.
-- Called by each server process that finds a key due.
CREATE OR REPLACE FUNCTION ds.add_sender_key(public_key bytea, sealed_seed bytea, OUT outcome ds.add_sender_key_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    LOCK TABLE ds.sender_keys IN SHARE ROW EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM ds.sender_keys k WHERE NOT k.replaced) THEN
        outcome := 'not_due';
        RETURN;
    END IF;
    INSERT INTO ds.sender_keys (public_key, sealed_seed)
    VALUES (add_sender_key.public_key, add_sender_key.sealed_seed);
    outcome := 'added';
END
$$;
