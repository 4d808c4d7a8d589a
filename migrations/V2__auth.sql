-- Authentication Service: users under their real names, their evolving identities (EID) and
-- the keys that sign client credentials (AS-1 to AS-5).

CREATE TABLE auth.users (
    user_id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    name text COLLATE "C" NOT NULL UNIQUE
        CHECK (name ~ '^[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?$'),
    group_info bytea NOT NULL,
    ratchet_tree bytea NOT NULL,
    epoch bigint NOT NULL CHECK (epoch >= 0),
    eid bytea NOT NULL,
    registered date NOT NULL
);
COMMENT ON TABLE auth.users IS 'Users of the home domain';
COMMENT ON COLUMN auth.users.user_id IS 'Ours, known to this schema and the allowances only. Never changes';
COMMENT ON COLUMN auth.users.name IS 'What stands before @: lower-case ASCII, so that no two names look alike (AS-1). Never changes';
COMMENT ON COLUMN auth.users.group_info IS 'GroupInfo (RFC 9420 §12.4.3) of the EID''s epoch 0. Never changes';
COMMENT ON COLUMN auth.users.ratchet_tree IS 'Ratchet tree of the EID''s epoch 0. Never changes';
COMMENT ON COLUMN auth.users.epoch IS 'The EID''s current epoch. Grows by one with each row of eid_log';
COMMENT ON COLUMN auth.users.eid IS 'Public state of the EID group in its current epoch (postcard), for validating the next commit. Changes with epoch';
COMMENT ON COLUMN auth.users.registered IS 'Day (UTC) of registration. Never changes';

CREATE TABLE auth.eid_log (
    user_id bigint NOT NULL REFERENCES auth.users,
    epoch bigint NOT NULL CHECK (epoch >= 0),
    commit bytea NOT NULL,
    PRIMARY KEY (user_id, epoch)
);
COMMENT ON TABLE auth.eid_log IS 'Every commit to every EID, for readers to replay (AS-3). Rows never change and never go';
COMMENT ON COLUMN auth.eid_log.user_id IS 'Whose EID. Never changes';
COMMENT ON COLUMN auth.eid_log.epoch IS 'The epoch that the commit ended. Never changes';
COMMENT ON COLUMN auth.eid_log.commit IS 'MLSMessage with a PublicMessage (RFC 9420 §6). Never changes';

CREATE TRIGGER eid_log_only_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON auth.eid_log
    FOR EACH STATEMENT EXECUTE FUNCTION operator.refuse_change();
ALTER TABLE auth.eid_log ENABLE ALWAYS TRIGGER eid_log_only_grows;

CREATE TABLE auth.clients (
    client_key bytea PRIMARY KEY CHECK (octet_length(client_key) = 32),
    user_id bigint NOT NULL REFERENCES auth.users,
    credential bytea,
    sealed_contact bytea,
    added date NOT NULL
);
CREATE INDEX clients_of_user ON auth.clients (user_id);
COMMENT ON TABLE auth.clients IS 'The clients in the current epoch of each user''s EID: a mirror of its tree, by key';
COMMENT ON COLUMN auth.clients.client_key IS 'Ed25519 public key: the signature key of the client''s leaf. Never changes';
COMMENT ON COLUMN auth.clients.user_id IS 'Whose client. Never changes';
COMMENT ON COLUMN auth.clients.credential IS 'The last client credential signed for it (AS-2); null until it asks for one. Changes';
COMMENT ON COLUMN auth.clients.sealed_contact IS 'Its SignedContact (AS-5), sealed under the server''s master key so that no dump joins a name to a queue (PRIV-1). Changes';
COMMENT ON COLUMN auth.clients.added IS 'Day (UTC) on which it joined the EID. Never changes';

CREATE TABLE auth.signing_keys (
    public_key bytea PRIMARY KEY CHECK (octet_length(public_key) = 32),
    sealed_seed bytea NOT NULL,
    not_before date NOT NULL,
    not_after date NOT NULL CHECK (not_after > not_before)
);
COMMENT ON TABLE auth.signing_keys IS 'Keys that sign client credentials (AS-2). The newest that is valid signs, all are published';
COMMENT ON COLUMN auth.signing_keys.public_key IS 'Ed25519 public key. Never changes';
COMMENT ON COLUMN auth.signing_keys.sealed_seed IS 'Its private seed, sealed under the server''s master key. Never changes';
COMMENT ON COLUMN auth.signing_keys.not_before IS 'First day (UTC) of validity. Never changes';
COMMENT ON COLUMN auth.signing_keys.not_after IS 'Last day (UTC) of validity. Never changes';
