-- What deleted messages leave on disk goes, too (PRIV-3, QS-8).

ALTER TABLE qs.sweep
    ADD COLUMN scrub_day date NOT NULL DEFAULT 'epoch',
    ADD COLUMN scrub_block bigint;
COMMENT ON TABLE qs.sweep IS 'How far the removal of what is too old, and of its traces on disk, has come: one row. Who is at it holds its lock';
COMMENT ON COLUMN qs.sweep.scrub_day IS 'Day (UTC) on which the traces of deleted messages were overwritten last. Changes';
COMMENT ON COLUMN qs.sweep.scrub_block IS 'The next page to look at; null = all were. Changes';

-- The table is as large as what is delivered between two vacuums, so vacuum must not fall behind:
-- throttled as by default, it took half a minute for one minute's deliveries.
ALTER TABLE qs.messages SET (
    autovacuum_vacuum_cost_delay = 0,
    toast.autovacuum_vacuum_cost_delay = 0
);
