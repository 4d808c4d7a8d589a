-- Delivery Service: groups, as sealed state under keys that only their members hold (DS-9).

CREATE TABLE ds.reservations (
    group_id bytea PRIMARY KEY CHECK (octet_length(group_id) = 16),
    reserved date NOT NULL
);
COMMENT ON TABLE ds.reservations IS 'Group ids that were handed out and have no group yet (DS-1)';
COMMENT ON COLUMN ds.reservations.group_id IS 'The random part of the group id. Never changes';
COMMENT ON COLUMN ds.reservations.reserved IS 'Day (UTC) of the reservation. Never changes';

CREATE TABLE ds.groups (
    group_id bytea PRIMARY KEY CHECK (octet_length(group_id) = 16),
    epoch bigint NOT NULL CHECK (epoch >= 0),
    revision integer NOT NULL CHECK (revision >= 0),
    last_commit bytea CHECK (octet_length(last_commit) = 32),
    roster bytea NOT NULL,
    tree bytea NOT NULL,
    last_used date NOT NULL
) WITH (fillfactor = 80);
-- Sealed bytes do not compress, and an application message reads the roster only.
ALTER TABLE ds.groups ALTER roster SET STORAGE EXTERNAL, ALTER tree SET STORAGE EXTERNAL;
COMMENT ON TABLE ds.groups IS 'Groups: who is in them and what they say is sealed (DS-9)';
COMMENT ON COLUMN ds.groups.group_id IS 'The random part of the group id. Never changes';
COMMENT ON COLUMN ds.groups.epoch IS 'The group''s epoch (RFC 9420 §2). Grows by one with each commit, by nothing else';
COMMENT ON COLUMN ds.groups.revision IS 'Proposals kept in this epoch. Grows; zero after each commit';
COMMENT ON COLUMN ds.groups.last_commit IS 'SHA-256 of the commit that began this epoch, for telling a repeat (DS-4). Changes with epoch';
COMMENT ON COLUMN ds.groups.roster IS 'What an application message needs: leaves, keys, addresses; padded and sealed under the group''s state key. Changes with epoch';
COMMENT ON COLUMN ds.groups.tree IS 'What a commit needs: the group''s public state; padded and sealed likewise. Changes with epoch and revision';
COMMENT ON COLUMN ds.groups.last_used IS 'Day (UTC) of the last message. Changes';

CREATE FUNCTION ds.keep_epochs_in_order() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF new.group_id <> old.group_id
       OR NOT (new.epoch = old.epoch AND new.revision >= old.revision
               OR new.epoch = old.epoch + 1 AND new.revision = 0) THEN
        RAISE EXCEPTION 'a group''s epoch moves by one' USING ERRCODE = 'check_violation';
    END IF;
    RETURN new;
END
$$;
COMMENT ON FUNCTION ds.keep_epochs_in_order IS 'Trigger of ds.groups: no way around one commit per epoch (DS-4)';
CREATE TRIGGER epochs_stay_in_order BEFORE UPDATE ON ds.groups
    FOR EACH ROW EXECUTE FUNCTION ds.keep_epochs_in_order();
ALTER TABLE ds.groups ENABLE ALWAYS TRIGGER epochs_stay_in_order;
