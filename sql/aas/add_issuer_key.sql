-- aas.add_issuer_key: the first issuer key, and the partition for its spent tokens (AAS-5).
--
-- Returns added, or exists if another server process added one. Called when a server starts
-- and finds none.
CREATE OR REPLACE FUNCTION aas.add_issuer_key(
    token_type integer, public_key bytea, sealed_seed bytea, OUT outcome text)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = aas, pg_temp AS $$
DECLARE
    new_key smallint;
BEGIN
    LOCK TABLE aas.issuer_keys IN SHARE ROW EXCLUSIVE MODE;
    IF EXISTS (SELECT FROM aas.issuer_keys) THEN
        outcome := 'exists';
        RETURN;
    END IF;
    INSERT INTO aas.issuer_keys AS k (token_type, public_key, sealed_seed, not_before)
    VALUES (add_issuer_key.token_type, add_issuer_key.public_key, add_issuer_key.sealed_seed,
            (now() AT TIME ZONE 'UTC')::date)
    RETURNING k.issuer_key INTO new_key;
    EXECUTE format('CREATE TABLE aas.spent_%s PARTITION OF aas.spent FOR VALUES IN (%s)',
                   new_key, new_key);
    outcome := 'added';
END
$$;
