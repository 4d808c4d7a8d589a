-- Authentication Service (AS): accounts under real names, their evolving identities (EID), and the keys that sign
-- client credentials (AS-1 to AS-5, AS-8, AS-9).
--
-- An account lives through one incarnation after the other: a reset, after all clients were lost, begins a new EID that
-- is chained to the end of the one before. Commits are kept as long as the account lives. It ends with
-- auth.erase_account, which leaves nothing of it, and which alone can delete any of these rows.
--
-- Ids are random, and no row that stays says when it was made: a serial number or a day would join a user with the queues that
-- its client made in the same minute (PRIV-4, PRIV-5).

CREATE TABLE auth.settings (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    registrations_per_source integer NOT NULL DEFAULT 20 CHECK (registrations_per_source >= 0),
    registrations_per_hour integer NOT NULL DEFAULT 1000 CHECK (registrations_per_hour >= 0),
    network_factor integer NOT NULL DEFAULT 4 CHECK (network_factor BETWEEN 1 AND 256),
    new_sources_percent integer NOT NULL DEFAULT 50 CHECK (new_sources_percent BETWEEN 0 AND 100),
    registration_policy text NOT NULL DEFAULT 'open' CHECK (registration_policy IN ('open', 'invite', 'oidc')),
    invites_per_user integer NOT NULL DEFAULT 0 CHECK (invites_per_user >= 0),
    invite_days integer NOT NULL DEFAULT 14 CHECK (invite_days BETWEEN 1 AND 365),
    max_clients integer NOT NULL DEFAULT 32 CHECK (max_clients BETWEEN 1 AND 256),
    max_identity_commits integer NOT NULL DEFAULT 10000 CHECK (max_identity_commits > 0),
    identity_commits_per_day integer NOT NULL DEFAULT 100 CHECK (identity_commits_per_day > 0),
    max_identity_commit_bytes integer NOT NULL DEFAULT 16384
        CHECK (max_identity_commit_bytes BETWEEN 4096 AND 65536),
    -- Readers take 64 MiB (api/src/auth.rs). Beyond this limit come commits that leave fewer clients only: 255 at most, of 64 KiB.
    max_identity_history_bytes integer NOT NULL DEFAULT 50331648
        CHECK (max_identity_history_bytes BETWEEN 1024 AND 50331648),
    max_identity_leaf_bytes integer NOT NULL DEFAULT 2048 CHECK (max_identity_leaf_bytes BETWEEN 512 AND 65536),
    history_page_bytes integer NOT NULL DEFAULT 262144 CHECK (history_page_bytes BETWEEN 16384 AND 16777216),
    reset_attempts_per_source integer NOT NULL DEFAULT 20 CHECK (reset_attempts_per_source >= 0),
    reset_attempts_per_hour integer NOT NULL DEFAULT 1000 CHECK (reset_attempts_per_hour >= 0),
    resets_per_month integer NOT NULL DEFAULT 1 CHECK (resets_per_month >= 0),
    renames_per_month integer NOT NULL DEFAULT 1 CHECK (renames_per_month >= 0),
    former_name_days integer NOT NULL DEFAULT 365 CHECK (former_name_days BETWEEN 0 AND 3650),
    client_expiry_days integer NOT NULL DEFAULT 90 CHECK (client_expiry_days BETWEEN 90 AND 3650),
    account_expiry_days integer NOT NULL DEFAULT 0
        CHECK (account_expiry_days = 0 OR account_expiry_days BETWEEN 180 AND 36500),
    max_display_name_bytes integer NOT NULL DEFAULT 128 CHECK (max_display_name_bytes BETWEEN 16 AND 1024),
    max_profile_text_bytes integer NOT NULL DEFAULT 1024 CHECK (max_profile_text_bytes BETWEEN 0 AND 16384),
    max_sealed_profile_bytes integer NOT NULL DEFAULT 8192 CHECK (max_sealed_profile_bytes BETWEEN 1024 AND 16384),
    max_picture_bytes integer NOT NULL DEFAULT 131072 CHECK (max_picture_bytes BETWEEN 0 AND 524288),
    max_picture_pixels integer NOT NULL DEFAULT 1024 CHECK (max_picture_pixels BETWEEN 16 AND 8192)
);
COMMENT ON TABLE auth.settings IS 'Settings of the AS: one row';
COMMENT ON COLUMN auth.settings.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN auth.settings.registrations_per_source IS
    'Attempts to register that are taken from one network address in an hour: an IPv4 address, or an IPv6 network of 64 bits. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.registrations_per_hour IS
    'Attempts to register that are taken from all addresses together in an hour; 0 closes registration. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.network_factor IS
    'How many times as many attempts are taken from a network as from the next narrower one: an IPv4 network of 24 bits, after addresses; IPv6 networks of 56 and 48 bits, after those of 64. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.new_sources_percent IS
    'Part of the attempts of all addresses together, in percent, that is left to those of whose network (24 bits of IPv4, 48 of IPv6) none came in the hour. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.registration_policy IS
    'Strangers that can register. open: all. invite: those with an invite of auth.invites. oidc: those with an ID token of the identity provider that the servers'' configuration names. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.invites_per_user IS
    'Invites that a user can make in invite_days days, unless auth.users.invites says otherwise. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.invite_days IS
    'Days for which an invite that a user made is good, and after which the user can make another in its place. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.max_clients IS
    'Clients that a user may come to have; a user with more keeps them. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.max_identity_commits IS
    'Commits to an EID in all; beyond them only a commit that leaves fewer clients is taken. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.identity_commits_per_day IS
    'Commits to an EID in a day (UTC); beyond them only a commit that leaves fewer clients is taken. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.max_identity_commit_bytes IS
    'Bytes of a commit to an EID, at most. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.max_identity_history_bytes IS
    'Bytes of all commits to an EID together; beyond them only a commit that leaves fewer clients is taken. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.max_identity_leaf_bytes IS
    'Bytes of a new leaf of an EID, and of its GroupContext''s extensions, at most. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.history_page_bytes IS
    'Bytes of commits after which a page of an EID''s history ends; it has one commit at least. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.reset_attempts_per_source IS
    'Attempts to reset an account that are taken from one network address in an hour: an IPv4 address, or an IPv6 network of 64 bits. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.reset_attempts_per_hour IS
    'Attempts to reset an account that are taken from all addresses together in an hour. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.resets_per_month IS
    'Resets of an account in a month (UTC); 0: none is possible. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.renames_per_month IS
    'Changes of a user''s name in a month (UTC); 0: none is possible. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.former_name_days IS
    'Days for which nobody else can have the name that a user gave up, rounded up to the end of a month. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.client_expiry_days IS
    'Days after which a client that asked for no credential loses its own and its contact, rounded up to the end of a month. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.account_expiry_days IS
    'Days after which an account is erased whose clients were all silent; 0: accounts stay. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.max_display_name_bytes IS
    'Bytes of a display name, at most. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.max_profile_text_bytes IS
    'Bytes of a profile''s text, at most. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.max_sealed_profile_bytes IS
    'Bytes of a profile''s part for contacts, at most. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.max_picture_bytes IS
    'Bytes of a profile''s picture, at most; 0: no pictures. Changes as the operator likes';
COMMENT ON COLUMN auth.settings.max_picture_pixels IS
    'Pixels of a picture''s longer side, at most. Changes as the operator likes';
INSERT INTO auth.settings DEFAULT VALUES;

CREATE FUNCTION auth.month(moment timestamptz) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT (extract(year FROM moment AT TIME ZONE 'UTC') * 12 + extract(month FROM moment AT TIME ZONE 'UTC'))::integer
$$;
COMMENT ON FUNCTION auth.month IS
    'Number of a month (UTC): year times 12 and month. Days are not kept with accounts, since they would join a user with what its client made on the same day (PRIV-4)';

CREATE TABLE auth.reserved_names (
    name text COLLATE "C" PRIMARY KEY CHECK (name IS NOT DISTINCT FROM postern.user_name(name)),
    skeleton text COLLATE "C" NOT NULL GENERATED ALWAYS AS (postern.skeleton(name)) STORED
);
CREATE INDEX reserved_names_by_skeleton ON auth.reserved_names (skeleton);
COMMENT ON TABLE auth.reserved_names IS
    'Names that nobody can register, since others would believe that they speak for the server. A user who has one keeps it';
COMMENT ON COLUMN auth.reserved_names.name IS 'User name before @, in its one form. Never changes';
COMMENT ON COLUMN auth.reserved_names.skeleton IS
    'Form in which names are compared, so that post-master and adm1n are not free either. Never changes';
-- The names of RFC 2142, those whose owners get certificates for a domain (CA/B Baseline Requirements §3.2.2.4.4), and
-- those that people take for the operator's.
INSERT INTO auth.reserved_names (name) SELECT unnest(ARRAY[
    'abuse', 'accounts', 'admin', 'administrator', 'all', 'billing', 'bot', 'contact', 'daemon', 'dns', 'everyone',
    'ftp', 'help', 'helpdesk', 'hostmaster', 'info', 'legal', 'list', 'mailer-daemon', 'marketing', 'moderator',
    'news', 'no-reply', 'noc', 'nobody', 'official', 'operator', 'owner', 'postern', 'postmaster', 'privacy', 'root',
    'sales', 'security', 'server', 'service', 'ssladmin', 'ssladministrator', 'sslwebmaster', 'staff', 'support',
    'sysadmin', 'system', 'team', 'trouble', 'usenet', 'uucp', 'webmaster', 'www']);

CREATE TABLE auth.users (
    user_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text COLLATE "C" NOT NULL UNIQUE CHECK (name IS NOT DISTINCT FROM postern.user_name(name)),
    skeleton text COLLATE "C" NOT NULL UNIQUE GENERATED ALWAYS AS (postern.skeleton(name)) STORED,
    subject bytea UNIQUE CHECK (octet_length(subject) = 32),
    suspended boolean NOT NULL DEFAULT false,
    invites integer CHECK (invites >= 0),
    recovery_key bytea NOT NULL CHECK (octet_length(recovery_key) = 32),
    lookup bytea CHECK (octet_length(lookup) = 32),
    shown_name text COLLATE "C" UNIQUE GENERATED ALWAYS AS (CASE WHEN lookup IS NULL THEN name END) STORED
);
CREATE INDEX users_by_lookup ON auth.users (lookup) WHERE lookup IS NOT NULL;
COMMENT ON TABLE auth.users IS
    'Accounts of the home domain. The row''s lock orders whatever happens to the account''s identity';
COMMENT ON COLUMN auth.users.user_id IS 'Random id, known to this schema and the allowances only. Never changes';
COMMENT ON COLUMN auth.users.name IS
    'User name before @, in its one form (PRECIS UsernameCaseMapped, RFC 8265; one script, UTS #39) (AS-1). Changes by auth.rename_user only';
COMMENT ON COLUMN auth.users.skeleton IS
    'Form in which names are compared (UTS #39 §4): no two accounts have names that are taken for each other. Changes with the name';
COMMENT ON COLUMN auth.users.subject IS
    'Keyed digest of the login at the identity provider with which the account was registered: one account for each; null without one. Under the policy oidc a recent login is a second proof (AS-8, AS-9). Never changes';
COMMENT ON COLUMN auth.users.suspended IS
    'Whether the account gets no credentials, no tokens and no invites. Changes as the operator likes';
COMMENT ON COLUMN auth.users.invites IS
    'Invites that the user can make in auth.settings.invite_days days; null: as many as auth.settings.invites_per_user says. Changes as the operator likes';
COMMENT ON COLUMN auth.users.recovery_key IS
    'Ed25519 public key (32 bytes) that verifies the owner''s second proof (AS-8, AS-9); the private half is derived from a secret that only the owner has. Changes by auth.replace_recovery_key only';
COMMENT ON COLUMN auth.users.lookup IS
    'Labelled SHA-256 (32 bytes) of the secret by which alone the account can be looked up; null: everybody can. Changes by auth.put_profile, and ends with an identity';
COMMENT ON COLUMN auth.users.shown_name IS
    'Name by which everybody can look the account up; null if not everybody can: then a lookup finds as much in this index as for a name that nobody has (AS-5). Changes with name and lookup';

CREATE TABLE auth.invites (
    invite uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    uses integer NOT NULL CHECK (uses >= 0),
    expires date NOT NULL,
    note text,
    made_by uuid REFERENCES auth.users ON DELETE CASCADE
);
CREATE INDEX invites_of_user ON auth.invites (made_by) WHERE made_by IS NOT NULL;
CREATE INDEX invites_by_expiry ON auth.invites (expires);
COMMENT ON TABLE auth.invites IS
    'Invites by which strangers register (AS-1). None tells who registered by it. A row goes when the invite has expired, used up or not';
COMMENT ON COLUMN auth.invites.invite IS 'Random id, by which the operator revokes it. Never changes';
COMMENT ON COLUMN auth.invites.digest IS
    'SHA-256 of a label and the code, which is nowhere in the database. Never changes';
COMMENT ON COLUMN auth.invites.uses IS 'Registrations that are left. Falls';
COMMENT ON COLUMN auth.invites.expires IS 'Last day (UTC) on which it is good. Never changes';
COMMENT ON COLUMN auth.invites.note IS 'Note of the operator who made it; null without one. Never changes';
COMMENT ON COLUMN auth.invites.made_by IS 'User who made it; null: the operator did. Never changes';

CREATE TABLE auth.former_names (
    name text COLLATE "C" PRIMARY KEY,
    skeleton text COLLATE "C" NOT NULL GENERATED ALWAYS AS (postern.skeleton(name)) STORED,
    user_id uuid NOT NULL REFERENCES auth.users ON DELETE CASCADE,
    free integer NOT NULL
);
CREATE INDEX former_names_by_skeleton ON auth.former_names (skeleton);
CREATE INDEX former_names_of_user ON auth.former_names (user_id);
COMMENT ON TABLE auth.former_names IS
    'Names that users gave up, which nobody else can have for a time: contacts would take another owner for the first one (AS-9)';
COMMENT ON COLUMN auth.former_names.name IS 'User name before @, in its one form. Never changes';
COMMENT ON COLUMN auth.former_names.skeleton IS 'Form in which names are compared. Never changes';
COMMENT ON COLUMN auth.former_names.user_id IS
    'Account that had it, which can take it back, and with which it goes. Never changes';
COMMENT ON COLUMN auth.former_names.free IS 'Month (auth.month) from which on the name is free. Never changes';

-- AFTER: a name that is taken while its owner gives it up waits for that at the unique indexes of auth.users, and sees here
-- what became of it.
CREATE FUNCTION auth.keep_names_free() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF auth.is_name_kept(new.skeleton, new.user_id) THEN
        RAISE EXCEPTION 'a name is reserved, or was another user''s until lately'
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'names_are_free';
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION auth.keep_names_free IS
    'Triggers of auth.users: nobody takes a name that is the operator''s or was another user''s until lately, whenever that became so (AS-1, AS-9)';
CREATE TRIGGER names_are_free AFTER INSERT ON auth.users
    FOR EACH ROW EXECUTE FUNCTION auth.keep_names_free();
CREATE TRIGGER new_names_are_free AFTER UPDATE OF name ON auth.users
    FOR EACH ROW WHEN (new.name <> old.name) EXECUTE FUNCTION auth.keep_names_free();
ALTER TABLE auth.users
    ENABLE ALWAYS TRIGGER names_are_free, ENABLE ALWAYS TRIGGER new_names_are_free;

CREATE TYPE auth.account_change AS ENUM ('reset', 'rename');
COMMENT ON TYPE auth.account_change IS 'What an account''s owner can do a few times in a month';

CREATE TABLE auth.account_changes (
    user_id uuid REFERENCES auth.users ON DELETE CASCADE,
    kind auth.account_change,
    month integer NOT NULL,
    changes integer NOT NULL,
    PRIMARY KEY (user_id, kind)
);
COMMENT ON TABLE auth.account_changes IS
    'Resets and changes of name in the present month, which are limited (AS-8, AS-9). Rows go when their month is over';
COMMENT ON COLUMN auth.account_changes.user_id IS 'Account. Never changes';
COMMENT ON COLUMN auth.account_changes.kind IS 'What was done. Never changes';
COMMENT ON COLUMN auth.account_changes.month IS 'Month (auth.month) that is counted. Grows';
COMMENT ON COLUMN auth.account_changes.changes IS 'How often in that month. Grows, and begins anew with each month';

CREATE TABLE auth.profiles (
    user_id uuid PRIMARY KEY REFERENCES auth.users ON DELETE CASCADE,
    version bigint NOT NULL CHECK (version > 0),
    profile bytea NOT NULL,
    picture bytea
);
COMMENT ON TABLE auth.profiles IS
    'Profiles of users that have one (AS-6). A row goes with the identity that it is of';
COMMENT ON COLUMN auth.profiles.user_id IS 'Account. Never changes';
COMMENT ON COLUMN auth.profiles.version IS 'Version of the profile. Grows';
COMMENT ON COLUMN auth.profiles.profile IS 'SignedProfile in CBOR, signed by a client. Changes';
COMMENT ON COLUMN auth.profiles.picture IS 'Picture that the profile names, if it names one. Changes';

-- The counts are lost with a crash, and are never in WAL, replicas or base backups.
CREATE UNLOGGED TABLE auth.wrong_proofs (
    name_digest bytea PRIMARY KEY CHECK (octet_length(name_digest) = 32),
    hour integer NOT NULL,
    proofs integer NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE auth.wrong_proofs IS
    'Second proofs that did not verify, of the last day: somebody who is not the owner tried to reset, rename or delete an account (AS-8)';
COMMENT ON COLUMN auth.wrong_proofs.name_digest IS
    'SHA-256 of the name before @ that was attacked, whether anybody has it or not: so both are counted in the same way, and the time of an answer tells nothing. Never changes';
COMMENT ON COLUMN auth.wrong_proofs.hour IS 'Hour (hours since 1970) that is counted. Grows';
COMMENT ON COLUMN auth.wrong_proofs.proofs IS 'Number in that hour. Grows, and begins anew with each hour';

-- Logged: a crash must not make a token good again.
CREATE TABLE auth.used_id_tokens (
    digest bytea PRIMARY KEY CHECK (octet_length(digest) = 32),
    hour integer NOT NULL
);
CREATE INDEX used_id_tokens_by_hour ON auth.used_id_tokens (hour);
COMMENT ON TABLE auth.used_id_tokens IS
    'ID tokens that proved something for an account''s owner, which none does twice (AS-8, AS-9). No row leads to a user';
COMMENT ON COLUMN auth.used_id_tokens.digest IS
    'SHA-256 of a label, the operation, and the signed part of the token. Never changes';
COMMENT ON COLUMN auth.used_id_tokens.hour IS
    'Hour (hours since 1970) in which the token is good no more; the row goes a day later by the clock of a server, which says whether a token is good, and by that of the database (auth.clean_up): a leap of one of them forgets nothing. Never changes';

CREATE TYPE auth.verified_proof AS (recovery_key bytea, login bytea, id_token bytea, id_token_hour integer);
COMMENT ON TYPE auth.verified_proof IS
    'Second proof that a server verified (AS-8, AS-9): by the recovery key, or by an ID token of the login';
COMMENT ON COLUMN auth.verified_proof.recovery_key IS 'Verifier of the recovery key; null for an ID token';
COMMENT ON COLUMN auth.verified_proof.login IS
    'Keyed digest of the login, as auth.users.subject is; null for a recovery key';
COMMENT ON COLUMN auth.verified_proof.id_token IS
    'Digest of the token and what it proves, as in auth.used_id_tokens; null for a recovery key';
COMMENT ON COLUMN auth.verified_proof.id_token_hour IS
    'Hour (hours since 1970) in which the token is good no more; null for a recovery key';

-- Transcripts (protocol/src/eid.rs): the database computes them too (auth.following_transcript has the next one), so that
-- no server process can write a history that does not follow from the one before.
CREATE FUNCTION auth.founding_transcript(previous_end bytea, group_info bytea, ratchet_tree bytea) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN sha256('Postern EID founding'::bytea || '\x00'::bytea
                  || coalesce(previous_end, decode(repeat('00', 32), 'hex'))
                  || int4send(octet_length(group_info)) || group_info || ratchet_tree);
END
$$;
COMMENT ON FUNCTION auth.founding_transcript IS
    'Transcript of epoch 0 of an incarnation: of the end of the one before, or null, and of its GroupInfo and tree (AS-3)';

CREATE TABLE auth.incarnations (
    user_id uuid REFERENCES auth.users,
    incarnation integer CHECK (incarnation >= 0),
    previous_end bytea CHECK (octet_length(previous_end) = 32),
    group_info bytea NOT NULL,
    ratchet_tree bytea NOT NULL,
    founder bytea NOT NULL CHECK (octet_length(founder) = 32),
    founding bytea NOT NULL
        GENERATED ALWAYS AS (auth.founding_transcript(previous_end, group_info, ratchet_tree)) STORED,
    epoch bigint NOT NULL CHECK (epoch >= 0),
    transcript bytea NOT NULL CHECK (octet_length(transcript) = 32),
    tree_hash bytea NOT NULL CHECK (octet_length(tree_hash) = 32),
    state_signature bytea NOT NULL CHECK (octet_length(state_signature) = 64),
    current_group_info bytea,
    current_ratchet_tree bytea,
    eid bytea,
    ended integer,
    PRIMARY KEY (user_id, incarnation),
    CHECK ((incarnation = 0) = (previous_end IS NULL)),
    CHECK ((eid IS NULL) = (ended IS NOT NULL)),
    CHECK ((epoch = 0) = (current_group_info IS NULL) AND (epoch = 0) = (current_ratchet_tree IS NULL))
);
CREATE UNIQUE INDEX one_incarnation_lives ON auth.incarnations (user_id) WHERE eid IS NOT NULL;
CREATE INDEX incarnations_by_end ON auth.incarnations (ended) WHERE ended IS NOT NULL;
COMMENT ON TABLE auth.incarnations IS
    'Identities (EIDs) of each account, one after the other: all have ended but the last (AS-8). Rows never go, except with the account';
COMMENT ON COLUMN auth.incarnations.user_id IS 'Account. Never changes';
COMMENT ON COLUMN auth.incarnations.incarnation IS
    'Number of resets before it: 0 for the identity that was registered. Never changes';
COMMENT ON COLUMN auth.incarnations.previous_end IS
    'Transcript at the end of the incarnation before; null for the first. Never changes';
COMMENT ON COLUMN auth.incarnations.group_info IS 'GroupInfo (RFC 9420 §12.4.3) of epoch 0. Never changes';
COMMENT ON COLUMN auth.incarnations.ratchet_tree IS 'Ratchet tree of epoch 0. Never changes';
COMMENT ON COLUMN auth.incarnations.founder IS
    'Ed25519 public key (32 bytes) of the client in epoch 0, which needs nobody''s word to be confirmed (AS-4). Never changes';
COMMENT ON COLUMN auth.incarnations.founding IS 'Transcript of epoch 0. Never changes';
COMMENT ON COLUMN auth.incarnations.epoch IS 'Current epoch. Grows by one with each row of auth.eid_log';
COMMENT ON COLUMN auth.incarnations.transcript IS
    'SHA-256 of all that happened up to the current epoch (protocol/src/eid.rs). Changes with epoch, to what follows from the logged commit';
COMMENT ON COLUMN auth.incarnations.tree_hash IS 'Tree hash of the current epoch (RFC 9420 §7.8), for tickets (AS-10). Changes with epoch';
COMMENT ON COLUMN auth.incarnations.state_signature IS
    'Ed25519 signature (64 bytes) over the current state by the client that began the epoch (AS-3). Changes with epoch';
COMMENT ON COLUMN auth.incarnations.current_group_info IS
    'GroupInfo of the current epoch, by the client that began it; null in epoch 0, where group_info is it. Changes with epoch';
COMMENT ON COLUMN auth.incarnations.current_ratchet_tree IS
    'Ratchet tree of the current epoch; null in epoch 0, where ratchet_tree is it. Changes with epoch';
COMMENT ON COLUMN auth.incarnations.eid IS
    'Public state of the EID''s MLS group in its current epoch (postcard), which validates the next commit. Changes with epoch; null once the incarnation has ended, for ever';
COMMENT ON COLUMN auth.incarnations.ended IS
    'Month (auth.month) in which it ended, which tells when an account is abandoned that was not begun anew (AS-9); null while it lives. Set once, then never changes';

CREATE FUNCTION auth.chain_incarnations() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF new.incarnation > 0 THEN
        PERFORM FROM auth.incarnations i
          WHERE i.user_id = new.user_id AND i.incarnation = new.incarnation - 1
            AND i.eid IS NULL AND i.transcript = new.previous_end;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'an incarnation is chained to the end of the one before' USING ERRCODE = 'check_violation';
        END IF;
    END IF;
    IF new.epoch <> 0 OR new.eid IS NULL
       OR new.transcript <> auth.founding_transcript(new.previous_end, new.group_info, new.ratchet_tree) THEN
        RAISE EXCEPTION 'an incarnation begins in epoch 0, with the transcript of its founding'
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN new;
END
$$;
COMMENT ON FUNCTION auth.chain_incarnations IS
    'Trigger of auth.incarnations: no incarnation without the end of the one before (AS-8), and none with another transcript than its own (AS-3)';
CREATE TRIGGER incarnations_are_chained BEFORE INSERT ON auth.incarnations
    FOR EACH ROW EXECUTE FUNCTION auth.chain_incarnations();

CREATE FUNCTION auth.keep_incarnations_in_order() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    same CONSTANT boolean := (new.user_id, new.incarnation, new.previous_end, new.group_info, new.ratchet_tree, new.founder)
        IS NOT DISTINCT FROM (old.user_id, old.incarnation, old.previous_end, old.group_info, old.ratchet_tree, old.founder);
    ends CONSTANT boolean := new.eid IS NULL
        AND (new.epoch, new.transcript, new.tree_hash, new.state_signature, new.current_group_info, new.current_ratchet_tree)
            IS NOT DISTINCT FROM
            (old.epoch, old.transcript, old.tree_hash, old.state_signature, old.current_group_info, old.current_ratchet_tree);
BEGIN
    IF same AND old.eid IS NOT NULL AND ends THEN
        new.ended := auth.month(operator.today()::timestamp AT TIME ZONE 'UTC');
        RETURN new;
    END IF;
    IF same AND old.eid IS NOT NULL AND new.eid IS NOT NULL AND new.epoch = old.epoch + 1 THEN
        PERFORM FROM auth.eid_log l
          WHERE l.user_id = old.user_id AND l.incarnation = old.incarnation AND l.epoch = old.epoch
            AND new.transcript = auth.following_transcript(old.transcript, l.commit);
        IF FOUND THEN
            RETURN new;
        END IF;
    END IF;
    RAISE EXCEPTION 'an identity moves by one epoch, to the transcript that follows from the logged commit, or ends'
        USING ERRCODE = 'check_violation';
END
$$;
COMMENT ON FUNCTION auth.keep_incarnations_in_order IS
    'Trigger of auth.incarnations: a row moves by one epoch and its commit, or ends, and then never changes again (AS-3, AS-8)';
CREATE TRIGGER incarnations_stay_in_order BEFORE UPDATE ON auth.incarnations
    FOR EACH ROW EXECUTE FUNCTION auth.keep_incarnations_in_order();

CREATE TABLE auth.eid_log (
    user_id uuid,
    incarnation integer,
    epoch bigint CHECK (epoch >= 0),
    commit bytea NOT NULL,
    PRIMARY KEY (user_id, incarnation, epoch),
    FOREIGN KEY (user_id, incarnation) REFERENCES auth.incarnations
);
COMMENT ON TABLE auth.eid_log IS
    'Every commit to every EID, for readers that come back and for audits (AS-3). Rows never change, and go only with their account (AS-9)';
COMMENT ON COLUMN auth.eid_log.user_id IS 'Account. Never changes';
COMMENT ON COLUMN auth.eid_log.incarnation IS 'Incarnation of the account. Never changes';
COMMENT ON COLUMN auth.eid_log.epoch IS 'Epoch that the commit ended. Never changes';
COMMENT ON COLUMN auth.eid_log.commit IS 'MLSMessage with a PublicMessage (RFC 9420 §6). Never changes';

-- SECURITY DEFINER: at the end of a transaction nobody acts for its functions' owner any more.
CREATE FUNCTION auth.log_in_order() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM auth.incarnations i
      WHERE i.user_id = new.user_id AND i.incarnation = new.incarnation
        AND CASE tg_when WHEN 'BEFORE' THEN i.epoch = new.epoch AND i.eid IS NOT NULL ELSE i.epoch > new.epoch END;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'a commit is logged in the current epoch of an identity, and ends it'
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN new;
END
$$;
COMMENT ON FUNCTION auth.log_in_order IS
    'Triggers of auth.eid_log: a commit is of the current epoch when it comes, and of an earlier one when its transaction ends (AS-3)';
CREATE TRIGGER commits_are_of_the_current_epoch BEFORE INSERT ON auth.eid_log
    FOR EACH ROW EXECUTE FUNCTION auth.log_in_order();
CREATE CONSTRAINT TRIGGER commits_end_their_epoch AFTER INSERT ON auth.eid_log
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION auth.log_in_order();

-- The counts are lost with a crash, and are never in WAL, replicas or base backups: no more is to be known of a day.
CREATE UNLOGGED TABLE auth.commits_today (
    user_id uuid PRIMARY KEY REFERENCES auth.users ON DELETE CASCADE,
    day date NOT NULL,
    commits integer NOT NULL
);
COMMENT ON TABLE auth.commits_today IS
    'Commits to EIDs in the present day, which are limited: somebody who stole a client cannot use up its user''s before the user removes it (AS-3). A row goes within minutes of the end of its day';
COMMENT ON COLUMN auth.commits_today.user_id IS 'Account. Never changes';
COMMENT ON COLUMN auth.commits_today.day IS 'Day (UTC) that is counted. Changes to another when that is over';
COMMENT ON COLUMN auth.commits_today.commits IS
    'Number in that day. Grows, and begins anew with each day';

CREATE TABLE auth.clients (
    client_key bytea PRIMARY KEY CHECK (octet_length(client_key) = 32),
    user_id uuid NOT NULL,
    incarnation integer NOT NULL,
    confirmed boolean NOT NULL,
    credential bytea CHECK (credential IS NULL OR confirmed),
    sealed_contact bytea CHECK (sealed_contact IS NULL OR confirmed),
    heard integer NOT NULL DEFAULT auth.month(operator.today()::timestamp AT TIME ZONE 'UTC'),
    FOREIGN KEY (user_id, incarnation) REFERENCES auth.incarnations
);
CREATE INDEX clients_of_user ON auth.clients (user_id, incarnation);
CREATE INDEX clients_by_heard ON auth.clients (heard);
COMMENT ON TABLE auth.clients IS 'Clients in the current epoch of each account''s EID: a mirror of its tree, by key';
COMMENT ON COLUMN auth.clients.client_key IS
    'Ed25519 public key (32 bytes): the signature key of the client''s leaf. Never changes';
COMMENT ON COLUMN auth.clients.user_id IS 'Account. Never changes';
COMMENT ON COLUMN auth.clients.incarnation IS 'Incarnation of the account. Never changes';
COMMENT ON COLUMN auth.clients.confirmed IS
    'False for a client that was added and has not made a commit of its own since (AS-4): it is nothing to others yet. Becomes true once';
COMMENT ON COLUMN auth.clients.credential IS
    'Client credential that was signed last (AS-2); null until the client asks for one. Changes';
COMMENT ON COLUMN auth.clients.sealed_contact IS
    'SignedContact of the client (AS-5), sealed under the server''s master key so that no dump joins a name to a queue (PRIV-1); null until the client publishes one. Changes';
COMMENT ON COLUMN auth.clients.heard IS
    'Month (auth.month) in which the client was added or asked for a credential last, which tells when it is silent (AS-9). Grows';
CREATE TRIGGER contacts_are_sealed BEFORE INSERT OR UPDATE OF sealed_contact ON auth.clients
    FOR EACH ROW EXECUTE FUNCTION operator.check_seal('sealed_contact', 'AS contact', 'client_key');
ALTER TABLE auth.clients ENABLE ALWAYS TRIGGER contacts_are_sealed;

CREATE FUNCTION auth.keep_clients_true() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF tg_op = 'INSERT' THEN
        -- The founder is confirmed at once; everybody else is added by a commit, and the identity has moved then.
        PERFORM FROM auth.incarnations i
          WHERE i.user_id = new.user_id AND i.incarnation = new.incarnation AND i.eid IS NOT NULL
            AND new.confirmed = (i.epoch = 0) AND (i.epoch > 0 OR i.founder = new.client_key);
        IF FOUND THEN
            RETURN new;
        END IF;
    ELSIF (new.client_key, new.user_id, new.incarnation) = (old.client_key, old.user_id, old.incarnation)
          AND new.confirmed >= old.confirmed THEN
        RETURN new;
    END IF;
    RAISE EXCEPTION 'a client is an identity''s founder, or is added by a commit and confirmed later'
        USING ERRCODE = 'check_violation';
END
$$;
COMMENT ON FUNCTION auth.keep_clients_true IS
    'Trigger of auth.clients: a client belongs to one living incarnation, and nobody but its founder begins confirmed (AS-4)';
CREATE TRIGGER clients_stay_true BEFORE INSERT OR UPDATE ON auth.clients
    FOR EACH ROW EXECUTE FUNCTION auth.keep_clients_true();
ALTER TABLE auth.clients ENABLE ALWAYS TRIGGER clients_stay_true;

-- An account ends as a whole or not at all: its rows go in a transaction in which auth.erase_account names it here, and
-- in no other. The owner of the tables and a superuser could write here, too, or drop the triggers: this keeps them from
-- a mistake, and everybody else from more.
CREATE TABLE auth.erasures (
    user_id uuid PRIMARY KEY,
    transaction_id xid8 NOT NULL
);
COMMENT ON TABLE auth.erasures IS
    'Account that the present transaction erases: a row that auth.erase_account makes and removes, so that nobody else ever sees one';
COMMENT ON COLUMN auth.erasures.user_id IS 'Account. Never changes';
COMMENT ON COLUMN auth.erasures.transaction_id IS 'Transaction that erases it. Never changes';

CREATE FUNCTION auth.refuse_all_but_erasure() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM FROM auth.erasures e
      WHERE e.user_id = old.user_id AND e.transaction_id = pg_current_xact_id();
    IF NOT FOUND THEN
        RAISE EXCEPTION '%.% goes with its account only', tg_table_schema, tg_table_name
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'auth.erase_account ends an account.';
    END IF;
    RETURN old;
END
$$;
COMMENT ON FUNCTION auth.refuse_all_but_erasure IS
    'Trigger of the tables of an account: auth.erase_account alone deletes from them (AS-9)';
CREATE TRIGGER users_go_by_erasure BEFORE DELETE ON auth.users
    FOR EACH ROW EXECUTE FUNCTION auth.refuse_all_but_erasure();
CREATE TRIGGER incarnations_go_by_erasure BEFORE DELETE ON auth.incarnations
    FOR EACH ROW EXECUTE FUNCTION auth.refuse_all_but_erasure();
CREATE TRIGGER eid_log_goes_by_erasure BEFORE DELETE ON auth.eid_log
    FOR EACH ROW EXECUTE FUNCTION auth.refuse_all_but_erasure();
CREATE TRIGGER users_are_never_truncated BEFORE TRUNCATE ON auth.users
    FOR EACH STATEMENT EXECUTE FUNCTION operator.refuse_change();
CREATE TRIGGER incarnations_are_never_truncated BEFORE TRUNCATE ON auth.incarnations
    FOR EACH STATEMENT EXECUTE FUNCTION operator.refuse_change();
CREATE TRIGGER eid_log_never_changes BEFORE UPDATE OR TRUNCATE ON auth.eid_log
    FOR EACH STATEMENT EXECUTE FUNCTION operator.refuse_change();
-- ALWAYS: also for a session that set session_replication_role.
ALTER TABLE auth.users
    ENABLE ALWAYS TRIGGER users_go_by_erasure, ENABLE ALWAYS TRIGGER users_are_never_truncated;
ALTER TABLE auth.incarnations
    ENABLE ALWAYS TRIGGER incarnations_are_chained, ENABLE ALWAYS TRIGGER incarnations_stay_in_order,
    ENABLE ALWAYS TRIGGER incarnations_go_by_erasure, ENABLE ALWAYS TRIGGER incarnations_are_never_truncated;
ALTER TABLE auth.eid_log
    ENABLE ALWAYS TRIGGER commits_are_of_the_current_epoch, ENABLE ALWAYS TRIGGER commits_end_their_epoch,
    ENABLE ALWAYS TRIGGER eid_log_goes_by_erasure, ENABLE ALWAYS TRIGGER eid_log_never_changes;

-- An erased account is gone soon from the files, too (PRIV-3): its dead rows leave their pages and indexes with the next
-- autovacuum, and the daily upkeep overwrites the gap (qs.scrub_deleted). PostgreSQL's own threshold of fifty dead rows may
-- never be reached where few people are: here one is enough. No statistics quote values of these tables.
DO $$
DECLARE
    relation regclass;
    told record;
BEGIN
    FOR relation IN
        SELECT c.oid::regclass FROM pg_class c WHERE c.relnamespace = 'auth'::regnamespace AND c.relkind = 'r'
    LOOP
        EXECUTE format(
            'ALTER TABLE %s SET (vacuum_index_cleanup = on, autovacuum_vacuum_threshold = 0, '
            'autovacuum_vacuum_scale_factor = 0)', relation);
    END LOOP;
    FOR told IN
        SELECT a.attrelid::regclass AS relation, a.attname
          FROM pg_class c
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE c.relnamespace = 'auth'::regnamespace AND c.relkind = 'r'
           AND a.atttypid IN ('uuid'::regtype, 'text'::regtype, 'bytea'::regtype)
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS 0', told.relation, told.attname);
    END LOOP;
END
$$;

CREATE TABLE auth.key_settings (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    signing_days integer NOT NULL DEFAULT 365 CHECK (signing_days BETWEEN 1 AND 3650),
    -- A successor is published up to two days before its not_before, and credentials last for 90 days.
    overlap_days integer NOT NULL DEFAULT 100 CHECK (overlap_days BETWEEN 93 AND 1825),
    root_key bytea CHECK (octet_length(root_key) = 32),
    CONSTRAINT key_settings_overlap CHECK (signing_days >= 2 * overlap_days)
);
COMMENT ON TABLE auth.key_settings IS 'Settings of all signing keys: one row';
COMMENT ON COLUMN auth.key_settings.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN auth.key_settings.signing_days IS
    'Days for which a signing key is valid. Changes as the operator likes';
COMMENT ON COLUMN auth.key_settings.overlap_days IS
    'The last of these days, in which its successor is valid, too: what the key signed has ended before they have. Changes as the operator likes';
COMMENT ON COLUMN auth.key_settings.root_key IS
    'Ed25519 public key (32 bytes) of the domain''s offline root, which certifies the keys of the AS; null: there is no root. Changes as the operator likes, but clients insist on the root that they saw';
INSERT INTO auth.key_settings DEFAULT VALUES;
CREATE TRIGGER root_key_changed AFTER UPDATE OF root_key ON auth.key_settings
    FOR EACH STATEMENT EXECUTE FUNCTION operator.raise_key_version();
ALTER TABLE auth.key_settings ENABLE ALWAYS TRIGGER root_key_changed;

CREATE TABLE auth.signing_keys (
    public_key bytea PRIMARY KEY CHECK (octet_length(public_key) = 32),
    service text NOT NULL CHECK (service IN ('as', 'qs', 'federation')),
    sealed_seed bytea,
    not_before date NOT NULL,
    not_after date NOT NULL CHECK (not_after >= not_before),
    revoked date,
    certificate bytea CHECK (certificate IS NULL OR service = 'as'),
    endorsed_by bytea CHECK (octet_length(endorsed_by) = 32),
    endorsement bytea CHECK (octet_length(endorsement) = 64),
    CHECK ((endorsed_by IS NULL) = (endorsement IS NULL)),
    CHECK (endorsed_by IS NULL OR service = 'federation'),
    CHECK ((sealed_seed IS NULL) = (revoked IS NOT NULL))
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE auth.signing_keys IS
    'Keys that services sign with: client credentials (AS-2), batches of KeyPackages (QS-6), what this homeserver says to others (FED-1). The newest valid key of a service signs; all are published. A row goes when its validity is over, of a server key two years later';
COMMENT ON COLUMN auth.signing_keys.public_key IS 'Ed25519 public key (32 bytes). Never changes';
COMMENT ON COLUMN auth.signing_keys.service IS
    'Service that signs with it. as: Authentication Service. qs: Queuing Service. federation: the homeserver itself. Never changes';
COMMENT ON COLUMN auth.signing_keys.sealed_seed IS
    'Private seed, sealed under the server''s master key; null once the key is revoked. The seed never changes; the seal does with the master key';
COMMENT ON COLUMN auth.signing_keys.not_before IS
    'First day (UTC) of validity. Comes nearer when the key before it is revoked';
COMMENT ON COLUMN auth.signing_keys.not_after IS
    'Last day (UTC) of validity. Comes nearer when the operator rotates keys';
COMMENT ON COLUMN auth.signing_keys.revoked IS
    'Day (UTC) on which the operator revoked it: nothing that it signed counts; null: it is good. Set once, then never changes';
COMMENT ON COLUMN auth.signing_keys.certificate IS
    'Certificate by the domain''s root (protocol/src/credential.rs); null: there is none. Changes as the operator likes';
COMMENT ON COLUMN auth.signing_keys.endorsed_by IS
    'Key of the homeserver that was before this one, and endorsed it; null: this is the first, or no server key. Never changes';
COMMENT ON COLUMN auth.signing_keys.endorsement IS
    'Signature (64 bytes) of that key over this one (protocol/src/federation/description.rs). Never changes';
CREATE TRIGGER signing_keys_are_sealed BEFORE INSERT OR UPDATE OF sealed_seed ON auth.signing_keys
    FOR EACH ROW EXECUTE FUNCTION operator.check_seal('sealed_seed', 'signing key', 'public_key');
-- Server processes keep the keys in memory: any change, however it is made, tells them.
CREATE TRIGGER signing_keys_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON auth.signing_keys
    FOR EACH STATEMENT EXECUTE FUNCTION operator.raise_key_version();
ALTER TABLE auth.signing_keys
    ENABLE ALWAYS TRIGGER signing_keys_are_sealed, ENABLE ALWAYS TRIGGER signing_keys_changed;

-- Outcomes of API functions, success first. A refusal is an answer and not an exception, so that the token stays spent.
CREATE TYPE auth.admit_registration_outcome AS ENUM (
    'admitted', 'source_limited', 'server_limited', 'not_admitted');
COMMENT ON TYPE auth.admit_registration_outcome IS 'Outcomes of auth.admit_registration';
CREATE TYPE auth.register_user_outcome AS ENUM (
    'registered', 'name_taken', 'client_known', 'not_admitted', 'subject_known');
COMMENT ON TYPE auth.register_user_outcome IS 'Outcomes of auth.register_user';
CREATE TYPE auth.make_invite_outcome AS ENUM (
    'made', 'token_spent', 'unknown_client', 'suspended', 'too_many_invites');
COMMENT ON TYPE auth.make_invite_outcome IS 'Outcomes of auth.make_invite';
CREATE TYPE auth.store_credential_outcome AS ENUM ('stored', 'token_spent', 'unknown_client', 'suspended');
COMMENT ON TYPE auth.store_credential_outcome IS 'Outcomes of auth.store_credential';
CREATE TYPE auth.commit_identity_outcome AS ENUM (
    'committed', 'token_spent', 'wrong_epoch', 'unknown_client', 'client_known', 'too_many_clients', 'too_many_commits',
    'too_large');
COMMENT ON TYPE auth.commit_identity_outcome IS 'Outcomes of auth.commit_identity';
CREATE TYPE auth.publish_contact_outcome AS ENUM ('published', 'token_spent', 'unknown_client');
COMMENT ON TYPE auth.publish_contact_outcome IS 'Outcomes of auth.publish_contact';
CREATE TYPE auth.look_up_user_outcome AS ENUM ('found', 'token_spent', 'identity_ended', 'unknown_user');
COMMENT ON TYPE auth.look_up_user_outcome IS 'Outcomes of auth.look_up_user';
CREATE TYPE auth.replace_recovery_key_outcome AS ENUM ('replaced', 'token_spent', 'unknown_client', 'wrong_proof');
COMMENT ON TYPE auth.replace_recovery_key_outcome IS 'Outcomes of auth.replace_recovery_key';
CREATE TYPE auth.delete_account_outcome AS ENUM ('deleted', 'token_spent', 'unknown_client', 'wrong_proof', 'proven');
COMMENT ON TYPE auth.delete_account_outcome IS 'Outcomes of auth.delete_account';
CREATE TYPE auth.count_wrong_reset_outcome AS ENUM ('counted', 'source_limited', 'server_limited');
COMMENT ON TYPE auth.count_wrong_reset_outcome IS 'Outcomes of auth.count_wrong_reset';
CREATE TYPE auth.end_identity_outcome AS ENUM ('ended', 'wrong_proof', 'client_known', 'too_many_resets');
COMMENT ON TYPE auth.end_identity_outcome IS 'Outcomes of auth.end_identity';
CREATE TYPE auth.reset_account_outcome AS ENUM (
    'reset', 'wrong_proof', 'not_ended', 'client_known', 'suspended');
COMMENT ON TYPE auth.reset_account_outcome IS 'Outcomes of auth.reset_account';
CREATE TYPE auth.rename_user_outcome AS ENUM (
    'renamed', 'token_spent', 'unknown_client', 'wrong_proof', 'name_taken', 'too_many_renames', 'wrong_epoch',
    'too_many_commits', 'too_large', 'suspended');
COMMENT ON TYPE auth.rename_user_outcome IS 'Outcomes of auth.rename_user';
CREATE TYPE auth.put_profile_outcome AS ENUM ('kept', 'token_spent', 'unknown_client', 'outdated', 'no_picture');
COMMENT ON TYPE auth.put_profile_outcome IS 'Outcomes of auth.put_profile';
CREATE TYPE auth.fetch_picture_outcome AS ENUM ('found', 'token_spent', 'unknown_picture');
COMMENT ON TYPE auth.fetch_picture_outcome IS 'Outcomes of auth.fetch_picture';
CREATE TYPE auth.add_signing_key_outcome AS ENUM ('added', 'not_due');
COMMENT ON TYPE auth.add_signing_key_outcome IS 'Outcomes of auth.add_signing_key';
