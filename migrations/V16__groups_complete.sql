-- What joiners need of the past, until they have joined (DS-7); the DS as sender of proposals (DS-10).

CREATE TABLE ds.welcome_trees (
    group_id bytea REFERENCES ds.groups ON DELETE CASCADE,
    epoch bigint CHECK (epoch > 0),
    joiners bytea[] NOT NULL,
    tree bytea NOT NULL,
    expires date NOT NULL,
    PRIMARY KEY (group_id, epoch)
);
ALTER TABLE ds.welcome_trees ALTER tree SET STORAGE EXTERNAL;
CREATE INDEX welcome_trees_expires ON ds.welcome_trees (expires);
COMMENT ON TABLE ds.welcome_trees IS 'The ratchet trees that belong to Welcomes, until those who were added have shown up or their KeyPackages expired';
COMMENT ON COLUMN ds.welcome_trees.group_id IS 'The group. Never changes';
COMMENT ON COLUMN ds.welcome_trees.epoch IS 'The epoch that began with the Add. Never changes';
COMMENT ON COLUMN ds.welcome_trees.joiners IS 'For each that is still awaited, 16 bytes of HMAC-SHA256 under the group''s state key over its epoch and leaf key. Gets shorter';
COMMENT ON COLUMN ds.welcome_trees.tree IS 'The tree, padded and sealed under the group''s state key. Never changes';
COMMENT ON COLUMN ds.welcome_trees.expires IS 'The last day (UTC) on which one of the KeyPackages is valid. Never changes';

CREATE TABLE ds.sender_keys (
    number integer PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    public_key bytea NOT NULL UNIQUE CHECK (octet_length(public_key) = 32),
    sealed_seed bytea NOT NULL
);
COMMENT ON TABLE ds.sender_keys IS 'Keys by which the DS proposes removals as MLS external sender (DS-10). Kept as long as groups carry them';
COMMENT ON COLUMN ds.sender_keys.number IS 'Counts; groups that begin now carry the last. Never changes';
COMMENT ON COLUMN ds.sender_keys.public_key IS 'Ed25519 public key, in the group context of each group that began with it. Never changes';
COMMENT ON COLUMN ds.sender_keys.sealed_seed IS 'Its private half, sealed under the server''s master key. Never changes';

CREATE TABLE ds.settings (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    inactive_days integer NOT NULL DEFAULT 90 CHECK (inactive_days BETWEEN 1 AND 3650),
    abandoned_days integer NOT NULL DEFAULT 365 CHECK (abandoned_days BETWEEN 1 AND 3650)
);
INSERT INTO ds.settings DEFAULT VALUES;
COMMENT ON TABLE ds.settings IS 'What the operator decides for the DS: one row';
COMMENT ON COLUMN ds.settings.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN ds.settings.inactive_days IS 'After so many days without a commit a client''s removal is proposed (DS-10). Changes as the operator likes';
COMMENT ON COLUMN ds.settings.abandoned_days IS 'After so many days without a message a group is deleted (DS-11). Changes as the operator likes';
CREATE INDEX groups_last_used ON ds.groups (last_used);

-- It returns another column now, which CREATE OR REPLACE does not take.
DROP FUNCTION IF EXISTS ds.load_group(bytea, boolean);
