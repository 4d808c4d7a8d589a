-- Chains (QS-5) live in PostgreSQL's shared memory (pg_extension/src/chains.rs): a key that was
-- in a table stays in its dead rows until a vacuum, wherever that table is not logged.
DROP TABLE qs.chains;

ALTER TABLE qs.settings ADD COLUMN chain_hours integer NOT NULL DEFAULT 24 CHECK (chain_hours BETWEEN 0 AND 8760);
UPDATE qs.settings SET chain_hours = 24 * chain_days;
ALTER TABLE qs.settings DROP COLUMN chain_days;
COMMENT ON COLUMN qs.settings.chain_hours IS 'Hours after which a queue gets a new chain (QS-5); 0 = with each delivery. May change';
COMMENT ON COLUMN qs.queues.last_chain IS 'Number of the chain started last; 0 = none. Grows, so that a number never comes twice';
