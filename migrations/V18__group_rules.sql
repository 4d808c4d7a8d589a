-- What the operator decides about groups: how large they and their messages get, which ciphersuites they have, for how
-- long a message may be late (DS-3), how many ids are reserved at a time (DS-1).

ALTER TABLE ds.settings
    ADD COLUMN max_members integer NOT NULL DEFAULT 1000 CHECK (max_members BETWEEN 2 AND 5000),
    ADD COLUMN max_message_bytes integer NOT NULL DEFAULT 65536 CHECK (max_message_bytes >= 1024),
    ADD COLUMN max_commit_bytes integer NOT NULL DEFAULT 524288 CHECK (max_commit_bytes >= 16384),
    ADD COLUMN past_epochs integer NOT NULL DEFAULT 3 CHECK (past_epochs BETWEEN 0 AND 5),
    ADD COLUMN max_reservations integer NOT NULL DEFAULT 1000000 CHECK (max_reservations > 0),
    ADD COLUMN ciphersuites integer[] NOT NULL DEFAULT '{1,3}'
        CHECK (1 = ANY (ciphersuites) AND ciphersuites <@ '{1,3}' AND array_position(ciphersuites, NULL) IS NULL);
COMMENT ON COLUMN ds.settings.max_members IS 'Leaves that a group may grow to; one that has more shrinks or stays. May change';
COMMENT ON COLUMN ds.settings.max_message_bytes IS 'Bytes of an application message or a proposal. May change';
COMMENT ON COLUMN ds.settings.max_commit_bytes IS 'Bytes of a commit, and of its Welcome. May change';
COMMENT ON COLUMN ds.settings.past_epochs IS 'For how many epochs after its own an application message is still taken. May change';
COMMENT ON COLUMN ds.settings.max_reservations IS 'Group ids that are reserved at a time and have no group yet. May change';
COMMENT ON COLUMN ds.settings.ciphersuites IS 'RFC 9420 §17.1: of new groups, and of members added to any. 1 is always among them. May change';

-- Counted in several rows: who reserves takes any that nobody else holds.
CREATE TABLE ds.reservation_counts (
    shard smallint PRIMARY KEY CHECK (shard BETWEEN 0 AND 15),
    reserved integer NOT NULL CHECK (reserved >= 0)
) WITH (fillfactor = 10);
COMMENT ON TABLE ds.reservation_counts IS 'How many rows ds.reservations has, so that nobody has to count them';
COMMENT ON COLUMN ds.reservation_counts.shard IS 'Which of sixteen counters. Never changes';
COMMENT ON COLUMN ds.reservation_counts.reserved IS 'Rows of ds.reservations that were counted here. Changes with them';

-- The default is for an older ds.reserve_group_id.
ALTER TABLE ds.reservations ADD COLUMN shard smallint NOT NULL DEFAULT 0;
COMMENT ON COLUMN ds.reservations.shard IS 'The counter that counts it. Never changes';
INSERT INTO ds.reservation_counts (shard, reserved)
SELECT shard, CASE shard WHEN 0 THEN (SELECT count(*) FROM ds.reservations) ELSE 0 END
  FROM generate_series(0, 15) shard;

-- Counters are locked in order.
CREATE FUNCTION ds.count_reservations() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM ds.reservation_counts c
      WHERE c.shard IN (SELECT r.shard FROM changed r) ORDER BY c.shard FOR NO KEY UPDATE;
    UPDATE ds.reservation_counts c
       SET reserved = c.reserved + CASE TG_OP WHEN 'INSERT' THEN r.number ELSE -r.number END
      FROM (SELECT changed.shard, count(*) AS number FROM changed GROUP BY changed.shard) r
     WHERE c.shard = r.shard;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION ds.count_reservations IS 'Trigger of ds.reservations: whoever inserts or deletes, the counters are right';
CREATE TRIGGER reservations_are_counted AFTER INSERT ON ds.reservations
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION ds.count_reservations();
CREATE TRIGGER reservations_are_discounted AFTER DELETE ON ds.reservations
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION ds.count_reservations();

-- It returns further columns now, which CREATE OR REPLACE does not take.
DROP FUNCTION IF EXISTS ds.load_group(bytea, boolean);
