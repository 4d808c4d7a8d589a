-- How long a nonce is, is said by its type, not by the table: PostgreSQL reads a table's CHECK constraints anew for
-- each statement (V11). That a partition has one key only, its bounds say already.

CREATE DOMAIN aas.nonce AS bytea CHECK (octet_length(VALUE) = 32);
COMMENT ON DOMAIN aas.nonce IS 'A token''s nonce (RFC 9577 §2.2): 32 random bytes';

ALTER TABLE aas.spent DROP CONSTRAINT spent_nonce_check, ALTER nonce TYPE aas.nonce;

DO $$
DECLARE
    partition record;
BEGIN
    FOR partition IN
        SELECT c.conrelid::regclass AS name, c.conname AS check_name
          FROM pg_inherits i JOIN pg_constraint c ON c.conrelid = i.inhrelid
         WHERE i.inhparent = 'aas.spent'::regclass AND c.contype = 'c'
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', partition.name, partition.check_name);
    END LOOP;
END
$$;
