-- aas.add_issuer_key: adds a new issuer key, if one is due, and the partition for its spent tokens (AAS-5). If several
-- server processes made one, the first is taken.
--
-- The key is published at once and used from a later midnight (UTC) on, when no cached directory is without it: not
-- before max_age from now. The first key of a type is used at once.
--
--   token_type: Privacy Pass token type
--   public_key: in the encoding of its token type
--   sealed_seed: sealed under the server's master key
--   max_age: seconds for which clients cache the directory
--
-- Returns added; not_due: another process was first; collides: another key of the type has the same truncated key id,
-- so make another one.
-- Called by each server process that finds a key due.
CREATE OR REPLACE FUNCTION aas.add_issuer_key(
    token_type integer, public_key bytea, sealed_seed bytea, max_age integer, OUT outcome aas.add_issuer_key_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
    first_day date;
    new_key smallint;
BEGIN
    LOCK TABLE aas.issuer_keys IN SHARE ROW EXCLUSIVE MODE;
    IF NOT EXISTS (SELECT FROM aas.due_issuer_keys(ARRAY[add_issuer_key.token_type])) THEN
        outcome := 'not_due';
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM aas.issuer_keys k
                WHERE k.token_type = add_issuer_key.token_type
                  AND k.truncated_key_id = get_byte(sha256(add_issuer_key.public_key), 31)) THEN
        outcome := 'collides';
        RETURN;
    END IF;
    first_day := CASE WHEN EXISTS (SELECT FROM aas.issuer_keys k
                                    WHERE k.token_type = add_issuer_key.token_type
                                      AND today >= k.not_before AND today < k.not_after)
                      THEN ((now() + make_interval(secs => max_age)) AT TIME ZONE 'UTC')::date + 1
                      ELSE today END;
    INSERT INTO aas.issuer_keys AS k (token_type, public_key, sealed_seed, not_before, not_after, retires)
    SELECT add_issuer_key.token_type, add_issuer_key.public_key, add_issuer_key.sealed_seed,
           first_day, first_day + s.issuing_days, first_day + s.issuing_days + s.redeeming_days
      FROM aas.settings s
    RETURNING k.issuer_key INTO new_key;
    -- It is attached, not created as a partition: that would lock out, for a moment, every spending request.
    EXECUTE format('CREATE TABLE aas.spent_%s (LIKE aas.spent INCLUDING ALL)', new_key);
    EXECUTE format('ALTER TABLE aas.spent ATTACH PARTITION aas.spent_%1$s FOR VALUES IN (%1$s)', new_key);
    PERFORM pg_notify('postern_issuer_keys', '');
    outcome := 'added';
END
$$;
