-- Delivery Service (DS): groups, as sealed state under keys that only their members hold (DS-9). Nothing here refers to
-- a queue: a group's members may have theirs in another database, or at another homeserver.

CREATE TABLE ds.settings (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    inactive_days integer NOT NULL DEFAULT 90 CHECK (inactive_days BETWEEN 1 AND 3650),
    abandoned_days integer NOT NULL DEFAULT 365 CHECK (abandoned_days BETWEEN 1 AND 3650),
    max_members integer NOT NULL DEFAULT 1000 CHECK (max_members BETWEEN 2 AND 5000),
    max_clients integer NOT NULL DEFAULT 16 CHECK (max_clients > 0),
    max_domains integer NOT NULL DEFAULT 50 CHECK (max_domains > 0),
    max_message_bytes integer NOT NULL DEFAULT 65536 CHECK (max_message_bytes >= 1024),
    max_commit_bytes integer NOT NULL DEFAULT 524288 CHECK (max_commit_bytes >= 16384),
    max_authenticated_data_bytes integer NOT NULL DEFAULT 1024 CHECK (max_authenticated_data_bytes >= 64),
    max_leaf_bytes integer NOT NULL DEFAULT 4096 CHECK (max_leaf_bytes BETWEEN 2048 AND 16384),
    max_delivery_bytes integer NOT NULL DEFAULT 134217728 CHECK (max_delivery_bytes >= 65536),
    max_awaited_bytes integer NOT NULL DEFAULT 67108864 CHECK (max_awaited_bytes >= 1048576),
    past_epochs integer NOT NULL DEFAULT 3 CHECK (past_epochs BETWEEN 0 AND 5),
    max_reservations integer NOT NULL DEFAULT 1000000 CHECK (max_reservations > 0),
    -- A group that is as large as it may be can go on: a commit has 83 bytes for each member, a leaf, and 4,096 bytes more, in
    -- the worst case with X25519 (server/src/mls/path.rs). With larger keys groups grow less.
    CONSTRAINT commits_of_the_largest_group_fit CHECK (max_commit_bytes >= 83 * max_members + max_leaf_bytes + 4096),
    CONSTRAINT deliveries_of_the_largest_group_fit
        CHECK (max_delivery_bytes >= max_members::bigint * (83 * max_members + max_leaf_bytes + 4096))
);
COMMENT ON TABLE ds.settings IS 'Settings of the DS: one row';
COMMENT ON COLUMN ds.settings.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN ds.settings.inactive_days IS
    'Days without a commit after which a client''s removal is proposed (DS-10). Changes as the operator likes';
COMMENT ON COLUMN ds.settings.abandoned_days IS
    'Days without a message after which a group is deleted (DS-11). Changes as the operator likes';
COMMENT ON COLUMN ds.settings.max_members IS
    'Leaves that a group may grow to; a larger one shrinks or stays. Changes as the operator likes';
COMMENT ON COLUMN ds.settings.max_clients IS
    'Leaves that one user may have in a group; a user that has more keeps them. Changes as the operator likes';
COMMENT ON COLUMN ds.settings.max_domains IS
    'Other domains of which a group may have members; one with members of more keeps them. Changes as the operator likes';
COMMENT ON COLUMN ds.settings.max_message_bytes IS
    'Bytes of an application message or a proposal, at most. Changes as the operator likes';
COMMENT ON COLUMN ds.settings.max_commit_bytes IS
    'Bytes of a commit, and of its Welcome, at most. Changes as the operator likes';
COMMENT ON COLUMN ds.settings.max_authenticated_data_bytes IS
    'Bytes of any message''s authenticated data, at most. Changes as the operator likes';
COMMENT ON COLUMN ds.settings.max_leaf_bytes IS
    'Bytes of a leaf that a message brings, as RFC 9420 encodes it, at most; a larger one that is there stays. Changes as the operator likes';
COMMENT ON COLUMN ds.settings.max_delivery_bytes IS
    'Bytes that one request may take in all queues together, at most. Changes as the operator likes';
COMMENT ON COLUMN ds.settings.max_awaited_bytes IS
    'Bytes of the trees that are kept for a group''s members who were added and have not joined yet, at most; an eighth of them for the clients of a user that is no admin. Changes as the operator likes';
COMMENT ON COLUMN ds.settings.past_epochs IS
    'Epochs after its own in which an application message is still taken. Changes as the operator likes';
COMMENT ON COLUMN ds.settings.max_reservations IS
    'Group ids that are reserved at a time and have no group yet, at most. Changes as the operator likes';
INSERT INTO ds.settings DEFAULT VALUES;

CREATE TABLE ds.reservations (
    group_id bytea PRIMARY KEY CHECK (octet_length(group_id) = 16),
    shard smallint NOT NULL,
    reserved date NOT NULL
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE ds.reservations IS 'Group ids that were handed out and have no group yet (DS-1)';
COMMENT ON COLUMN ds.reservations.group_id IS 'Random part of the group id (16 bytes). Never changes';
COMMENT ON COLUMN ds.reservations.shard IS 'Row of ds.reservation_counts that counts it. Never changes';
COMMENT ON COLUMN ds.reservations.reserved IS
    'Day (UTC) of the reservation, which expires two days later. Never changes';

-- Several rows count, so that a reservation takes any that no other transaction holds.
CREATE TABLE ds.reservation_counts (
    shard smallint PRIMARY KEY CHECK (shard BETWEEN 0 AND 15),
    reserved integer NOT NULL CHECK (reserved >= 0)
) WITH (fillfactor = 10);
COMMENT ON TABLE ds.reservation_counts IS 'Number of rows of ds.reservations, so that nobody has to count them';
COMMENT ON COLUMN ds.reservation_counts.shard IS 'One of sixteen counters. Never changes';
COMMENT ON COLUMN ds.reservation_counts.reserved IS 'Rows of ds.reservations that this counter counts. Changes with them';
INSERT INTO ds.reservation_counts (shard, reserved) SELECT shard, 0 FROM generate_series(0, 15) shard;

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
COMMENT ON FUNCTION ds.count_reservations IS
    'Trigger of ds.reservations: the counters are right after every insertion and deletion';
CREATE TRIGGER reservations_are_counted AFTER INSERT ON ds.reservations
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION ds.count_reservations();
CREATE TRIGGER reservations_are_discounted AFTER DELETE ON ds.reservations
    REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION ds.count_reservations();

CREATE TABLE ds.groups (
    group_id bytea PRIMARY KEY CHECK (octet_length(group_id) = 16),
    epoch bigint NOT NULL CHECK (epoch >= 0),
    revision integer NOT NULL CHECK (revision >= 0),
    last_commit bytea NOT NULL CHECK (octet_length(last_commit) = 32),
    roster bytea NOT NULL,
    tree bytea NOT NULL,
    last_used date NOT NULL
) WITH (fillfactor = 80, autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0.02);
-- Sealed bytes do not compress, and an application message reads the roster only.
ALTER TABLE ds.groups ALTER roster SET STORAGE EXTERNAL, ALTER tree SET STORAGE EXTERNAL;
CREATE INDEX groups_last_used ON ds.groups (last_used);
COMMENT ON TABLE ds.groups IS 'Groups: their members and messages are sealed (DS-9)';
COMMENT ON COLUMN ds.groups.group_id IS 'Random part of the group id (16 bytes). Never changes';
COMMENT ON COLUMN ds.groups.epoch IS
    'Epoch of the group (RFC 9420 §2). Grows by one with each commit, and by nothing else';
COMMENT ON COLUMN ds.groups.revision IS 'Number of times that proposals came in this epoch. Grows; zero after each commit';
COMMENT ON COLUMN ds.groups.last_commit IS
    'SHA-256 of the commit that began this epoch, or of the request that created the group, by which a repeat is recognised (DS-4). Changes with epoch';
COMMENT ON COLUMN ds.groups.roster IS
    'State that an application message needs (leaves, keys, addresses), padded and sealed under the group''s state key. Changes with epoch, and when somebody is to go';
COMMENT ON COLUMN ds.groups.tree IS
    'State that a commit needs (the group''s public state), padded and sealed under the group''s state key. Changes with epoch and revision';
COMMENT ON COLUMN ds.groups.last_used IS
    'Day (UTC) of the last message, because an abandoned group expires by days (DS-11). Grows';

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

CREATE TABLE ds.welcome_trees (
    group_id bytea REFERENCES ds.groups ON DELETE CASCADE,
    epoch bigint CHECK (epoch > 0),
    joiners bytea[] NOT NULL,
    tree bytea NOT NULL,
    expires date NOT NULL,
    PRIMARY KEY (group_id, epoch)
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
ALTER TABLE ds.welcome_trees ALTER tree SET STORAGE EXTERNAL;
CREATE INDEX welcome_trees_expires ON ds.welcome_trees (expires);
COMMENT ON TABLE ds.welcome_trees IS
    'Ratchet trees that belong to Welcomes, kept until the joiners have shown up or their KeyPackages expired (DS-7)';
COMMENT ON COLUMN ds.welcome_trees.group_id IS 'Group. Never changes';
COMMENT ON COLUMN ds.welcome_trees.epoch IS 'Epoch that began with the Add. Never changes';
COMMENT ON COLUMN ds.welcome_trees.joiners IS
    'Tags of the joiners that are still awaited: the first 16 bytes of HMAC-SHA256(state key, epoch ‖ leaf key) each. Gets shorter';
COMMENT ON COLUMN ds.welcome_trees.tree IS 'Ratchet tree, padded and sealed under the group''s state key. Never changes';
COMMENT ON COLUMN ds.welcome_trees.expires IS
    'Last day (UTC) on which one of the KeyPackages is valid. Never changes';

CREATE TABLE ds.sender_keys (
    number integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    public_key bytea NOT NULL UNIQUE CHECK (octet_length(public_key) = 32),
    sealed_seed bytea,
    replaced boolean NOT NULL DEFAULT false,
    CHECK (sealed_seed IS NOT NULL OR replaced)
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE ds.sender_keys IS
    'Keys with which the DS proposes removals as MLS external sender (DS-10). Rows stay as long as groups carry them';
COMMENT ON COLUMN ds.sender_keys.number IS 'Serial number; new groups carry the last key. Never changes';
COMMENT ON COLUMN ds.sender_keys.public_key IS
    'Ed25519 public key (32 bytes), in the group context of each group that began with it. Never changes';
COMMENT ON COLUMN ds.sender_keys.sealed_seed IS
    'Private seed, sealed under the server''s master key; null once the key is revoked. The seed never changes; the seal does with the master key';
COMMENT ON COLUMN ds.sender_keys.replaced IS
    'Whether the operator replaced it: it is for groups that carry it already. Set once, then never changes';
CREATE TRIGGER sender_keys_are_sealed BEFORE INSERT OR UPDATE OF sealed_seed ON ds.sender_keys
    FOR EACH ROW EXECUTE FUNCTION operator.check_seal('sealed_seed', 'DS external sender key', 'public_key');
-- Server processes keep the keys in memory: any change, however it is made, tells them.
CREATE TRIGGER sender_keys_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON ds.sender_keys
    FOR EACH STATEMENT EXECUTE FUNCTION operator.raise_key_version();
ALTER TABLE ds.sender_keys
    ENABLE ALWAYS TRIGGER sender_keys_are_sealed, ENABLE ALWAYS TRIGGER sender_keys_changed;

-- Outcomes of API functions, success first. A refusal is an answer and not an exception, so that the token stays spent.
CREATE TYPE ds.reserve_group_id_outcome AS ENUM ('reserved', 'token_spent', 'full');
COMMENT ON TYPE ds.reserve_group_id_outcome IS 'Outcomes of ds.reserve_group_id';
CREATE TYPE ds.create_group_outcome AS ENUM (
    'created', 'token_spent', 'ciphersuite_forbidden', 'leaf_too_large', 'homeserver_blocked', 'not_reserved');
COMMENT ON TYPE ds.create_group_outcome IS 'Outcomes of ds.create_group';
CREATE TYPE ds.submit_message_outcome AS ENUM (
    'accepted', 'token_spent', 'unknown_group', 'wrong_epoch', 'too_large', 'too_many_awaited', 'homeserver_blocked',
    'stale');
COMMENT ON TYPE ds.submit_message_outcome IS 'Outcomes of ds.submit_message';
CREATE TYPE ds.propose_removal_outcome AS ENUM ('proposed', 'stale');
COMMENT ON TYPE ds.propose_removal_outcome IS 'Outcomes of ds.propose_removal';
CREATE TYPE ds.delete_group_outcome AS ENUM ('deleted', 'token_spent', 'wrong_epoch');
COMMENT ON TYPE ds.delete_group_outcome IS 'Outcomes of ds.delete_group';
CREATE TYPE ds.add_sender_key_outcome AS ENUM ('added', 'not_due');
COMMENT ON TYPE ds.add_sender_key_outcome IS 'Outcomes of ds.add_sender_key';
