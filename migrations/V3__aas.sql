-- Anonymous Authentication Service (AAS): issuer keys, allowances, spent tokens, prices and figures of use (AAS-2 to
-- AAS-5). Rows kept at issuance (a taker's number of tokens) and at redemption (a nonce) have nothing in common that
-- could join the two (AAS-6).

CREATE TABLE aas.settings (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    daily_allowance integer NOT NULL DEFAULT 10000 CHECK (daily_allowance >= 0),
    new_user_allowance integer NOT NULL DEFAULT 2000 CHECK (new_user_allowance > 0),
    homeserver_allowance integer NOT NULL DEFAULT 1000000 CHECK (homeserver_allowance >= 0),
    new_homeserver_allowance integer NOT NULL DEFAULT 1000 CHECK (new_homeserver_allowance > 0),
    refusals_per_hour integer NOT NULL DEFAULT 100 CHECK (refusals_per_hour > 0),
    issuing_days integer NOT NULL DEFAULT 30 CHECK (issuing_days BETWEEN 10 AND 365),
    -- A successor is published up to two days before its not_before.
    overlap_days integer NOT NULL DEFAULT 7 CHECK (overlap_days BETWEEN 3 AND 9),
    redeeming_days integer NOT NULL DEFAULT 60 CHECK (redeeming_days BETWEEN 1 AND 365),
    -- So that two keys of a type issue at a time, and never a third, by which a client could be told from others.
    CONSTRAINT settings_two_keys CHECK (issuing_days >= 2 * overlap_days)
);
COMMENT ON TABLE aas.settings IS 'Defaults of the AAS: one row';
COMMENT ON COLUMN aas.settings.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN aas.settings.daily_allowance IS 'Tokens that a user may have per day (UTC). Changes as the operator likes';
COMMENT ON COLUMN aas.settings.new_user_allowance IS
    'Tokens that a user may have on the first day (UTC) on which it takes some; each such day adds as many, up to daily_allowance. Changes as the operator likes';
COMMENT ON COLUMN aas.settings.homeserver_allowance IS
    'Tokens that a federated domain may have per day (UTC). Changes as the operator likes';
COMMENT ON COLUMN aas.settings.new_homeserver_allowance IS
    'Tokens that a federated domain may have per day (UTC) that took no delivery before that day; ten times as many after each day since, up to homeserver_allowance. Changes as the operator likes';
COMMENT ON COLUMN aas.settings.refusals_per_hour IS
    'Token requests of one client that are refused in an hour after the server has worked on them; then it takes none. Changes as the operator likes';
COMMENT ON COLUMN aas.settings.issuing_days IS 'Days for which an issuer key issues. Changes as the operator likes';
COMMENT ON COLUMN aas.settings.overlap_days IS
    'Days for which an issuer key still issues after its successor was made. Changes as the operator likes';
COMMENT ON COLUMN aas.settings.redeeming_days IS
    'Days for which an issuer key''s tokens are good after the last was issued. Changes as the operator likes';
INSERT INTO aas.settings DEFAULT VALUES;

CREATE TABLE aas.issuer_keys (
    issuer_key smallint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    token_type integer NOT NULL CHECK (token_type BETWEEN 1 AND 65535),
    public_key bytea NOT NULL UNIQUE,
    truncated_key_id smallint NOT NULL GENERATED ALWAYS AS (get_byte(sha256(public_key), 31)) STORED,
    sealed_seed bytea NOT NULL,
    not_before date NOT NULL,
    not_after date NOT NULL,
    retires date NOT NULL,
    CONSTRAINT issuer_keys_validity CHECK (not_before <= not_after AND not_after <= retires),
    -- Requests name their key by its type and one byte (RFC 9578 §5.1).
    CONSTRAINT issuer_keys_truncated UNIQUE (token_type, truncated_key_id)
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE aas.issuer_keys IS
    'Keys that tokens are issued with (RFC 9578): all are published or redeemed. A row goes with its partition of aas.spent';
COMMENT ON COLUMN aas.issuer_keys.issuer_key IS 'Short name of the key, by which spent tokens are filed. Never changes';
COMMENT ON COLUMN aas.issuer_keys.token_type IS
    'Privacy Pass token type: 1 is VOPRF over P-384, 2 blind RSA, 5 amortized VOPRF over ristretto255. Never changes';
COMMENT ON COLUMN aas.issuer_keys.public_key IS 'Public key in the encoding of its token type. Never changes';
COMMENT ON COLUMN aas.issuer_keys.truncated_key_id IS
    'Last byte of the token key id, which is SHA-256 of the public key. Never changes';
COMMENT ON COLUMN aas.issuer_keys.sealed_seed IS
    'Seed of the private key (type 2: the private key itself, PKCS #8), sealed under the server''s master key. The seal changes with the master key';
COMMENT ON COLUMN aas.issuer_keys.not_before IS
    'First day (UTC) on which clients are told to use it. Comes nearer when the operator rotates keys';
COMMENT ON COLUMN aas.issuer_keys.not_after IS
    'Day (UTC) from which on it issues no more. Comes nearer when the operator rotates keys';
COMMENT ON COLUMN aas.issuer_keys.retires IS
    'Day (UTC) from which on its tokens are worth nothing. Comes nearer when the operator revokes keys';
CREATE TRIGGER issuer_keys_are_sealed BEFORE INSERT OR UPDATE OF sealed_seed ON aas.issuer_keys
    FOR EACH ROW EXECUTE FUNCTION operator.check_seal('sealed_seed', 'AAS issuer key', 'public_key');
-- Server processes keep the keys in memory: any change, however it is made, tells them.
CREATE TRIGGER issuer_keys_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON aas.issuer_keys
    FOR EACH STATEMENT EXECUTE FUNCTION operator.raise_key_version();
ALTER TABLE aas.issuer_keys
    ENABLE ALWAYS TRIGGER issuer_keys_are_sealed, ENABLE ALWAYS TRIGGER issuer_keys_changed;

-- The length is checked by a type, because PostgreSQL reads a table's CHECK constraints anew for each statement.
CREATE DOMAIN aas.nonce AS bytea CHECK (octet_length(VALUE) = 32);
COMMENT ON DOMAIN aas.nonce IS 'Nonce of a token (RFC 9577 §2.2): 32 random bytes';

-- Logged, never UNLOGGED: a crash must not reopen a token. Partitioned, so that a retired key's tokens go in one stroke.
CREATE TABLE aas.spent (
    issuer_key smallint NOT NULL,
    nonce aas.nonce NOT NULL,
    PRIMARY KEY (issuer_key, nonce)
) PARTITION BY LIST (issuer_key);
COMMENT ON TABLE aas.spent IS 'Tokens that were redeemed (AAS-4). Rows never change';
COMMENT ON COLUMN aas.spent.issuer_key IS 'Key that issued the token; each has a partition. Never changes';
COMMENT ON COLUMN aas.spent.nonce IS 'Nonce of the token, which the issuer has not seen. Never changes';

CREATE DOMAIN aas.signature_digest AS bytea CHECK (octet_length(VALUE) = 32);
COMMENT ON DOMAIN aas.signature_digest IS 'SHA-256 of a label and a request''s signature';

CREATE TABLE aas.signature_span (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    span smallint NOT NULL DEFAULT 0 CHECK (span BETWEEN 0 AND 2),
    begun_by_server bigint NOT NULL DEFAULT floor(extract(epoch FROM now()))::bigint,
    begun_by_database bigint NOT NULL DEFAULT floor(extract(epoch FROM now()))::bigint
);
COMMENT ON TABLE aas.signature_span IS
    'Present span of used signatures: one row. It ends after ten minutes by the clock of a server and by that of the database (aas.forget_signatures): a leap of one of them forgets nothing';
COMMENT ON COLUMN aas.signature_span.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN aas.signature_span.span IS 'Span in which signatures are used now. Goes from 0 over 1 to 2, and on from 0';
COMMENT ON COLUMN aas.signature_span.begun_by_server IS
    'Begin of the span (seconds since 1970), by the clock of the server that began it. Changes with the span, and when a server''s clock is behind it, and not far behind the database''s';
COMMENT ON COLUMN aas.signature_span.begun_by_database IS
    'Begin of the span (seconds since 1970), by the clock of the database. Changes with the span, and when that clock is behind it';
INSERT INTO aas.signature_span DEFAULT VALUES;

CREATE FUNCTION aas.present_span() RETURNS smallint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN (SELECT s.span FROM aas.signature_span s);
END
$$;
COMMENT ON FUNCTION aas.present_span IS
    'The span in which a signature is used now, which says when it may be forgotten (aas.forget_signatures)';

-- Logged, as aas.spent is: a crash must not reopen a signature that is still fresh. A row holds no time but a span of ten
-- minutes, one of three that follow each other, and goes when the next span ends: signatures are fresh for six minutes.
CREATE TABLE aas.used_signatures (
    digest aas.signature_digest PRIMARY KEY,
    span smallint NOT NULL DEFAULT aas.present_span()
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX used_signatures_by_span ON aas.used_signatures (span);
COMMENT ON TABLE aas.used_signatures IS
    'Signatures of requests that spent no token: such a request is good once (AAS-4). Rows never change';
COMMENT ON COLUMN aas.used_signatures.digest IS 'Digest of the signature. Never changes';
COMMENT ON COLUMN aas.used_signatures.span IS
    'Span in which it was used, from 0 to 2 (aas.signature_span), which tells when the row may go. Never changes';

CREATE TABLE aas.prices (
    endpoint text COLLATE "C" PRIMARY KEY,
    price smallint NOT NULL CHECK (price IN (0, 1))
);
COMMENT ON TABLE aas.prices IS 'Price of each endpoint that asks for a token (AAS-5); sql/prices.sql makes the rows';
COMMENT ON COLUMN aas.prices.endpoint IS 'Name of the API function, such as qs.deposit. Never changes';
COMMENT ON COLUMN aas.prices.price IS 'Tokens that a request costs. Changes as the operator likes';
-- Backends keep the price list in memory: any change, however it is made, tells them.
CREATE TRIGGER prices_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON aas.prices
    FOR EACH STATEMENT EXECUTE FUNCTION postern.forget();
ALTER TABLE aas.prices ENABLE ALWAYS TRIGGER prices_changed;

CREATE TABLE aas.takers (
    taker uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    user_id uuid UNIQUE REFERENCES auth.users ON DELETE CASCADE,
    domain operator.domain_name UNIQUE,
    days integer NOT NULL DEFAULT 0 CHECK (days >= 0),
    CHECK (num_nonnulls(user_id, domain) = 1)
) WITH (vacuum_index_cleanup = on, autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE aas.takers IS
    'Users (by their clients) and domains (by their homeservers) that asked for tokens or have an allowance of their own. The row''s lock orders the requests of one taker';
COMMENT ON COLUMN aas.takers.taker IS 'Random id. Never changes';
COMMENT ON COLUMN aas.takers.user_id IS 'User, if the taker is one. Never changes';
COMMENT ON COLUMN aas.takers.domain IS 'Federated domain, if the taker is one. Never changes';
COMMENT ON COLUMN aas.takers.days IS
    'Days (UTC) on which the user took tokens, as far as its allowance grows with them: no further, so that it tells no account''s age. Grows';

CREATE TABLE aas.allowances (
    taker uuid REFERENCES aas.takers ON DELETE CASCADE,
    token_type integer CHECK (token_type BETWEEN 1 AND 65535),
    tokens integer NOT NULL CHECK (tokens >= 0),
    CONSTRAINT allowances_taker_token_type_key UNIQUE NULLS NOT DISTINCT (taker, token_type),
    CHECK (num_nonnulls(taker, token_type) >= 1)
) WITH (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE aas.allowances IS 'Allowances other than the defaults of aas.settings';
COMMENT ON COLUMN aas.allowances.taker IS 'Taker; null: each taker that has no allowance of its own. Never changes';
COMMENT ON COLUMN aas.allowances.token_type IS
    'Privacy Pass token type that it is for, within the whole; null: the whole. Never changes';
COMMENT ON COLUMN aas.allowances.tokens IS 'Tokens per day (UTC). Changes as the operator likes';

CREATE TABLE aas.issued (
    taker uuid NOT NULL REFERENCES aas.takers ON DELETE CASCADE,
    day date NOT NULL,
    token_type integer NOT NULL,
    tokens integer NOT NULL CHECK (tokens > 0),
    PRIMARY KEY (taker, day, token_type)
) WITH (fillfactor = 70, autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
COMMENT ON TABLE aas.issued IS 'Tokens that each taker took of the allowance of today and yesterday (AAS-2)';
COMMENT ON COLUMN aas.issued.taker IS 'Taker. Never changes';
COMMENT ON COLUMN aas.issued.day IS
    'Day (UTC), because the allowance is one of a day. Two days are kept, so that no row tells when its taker came before. Never changes';
COMMENT ON COLUMN aas.issued.token_type IS 'Privacy Pass token type. Never changes';
COMMENT ON COLUMN aas.issued.tokens IS 'Tokens issued on that day. Grows';

-- Blinded elements tell nothing of the tokens made from them, so neither does their digest (AAS-6).
CREATE TABLE aas.requests (
    taker uuid NOT NULL REFERENCES aas.takers ON DELETE CASCADE,
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    day date NOT NULL,
    repeats smallint NOT NULL DEFAULT 0,
    PRIMARY KEY (taker, digest)
) WITH (fillfactor = 90, autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0);
CREATE INDEX requests_by_day ON aas.requests (day);
COMMENT ON TABLE aas.requests IS
    'Token requests of today and yesterday: the repeat of one, after its answer was lost, is free';
COMMENT ON COLUMN aas.requests.taker IS 'Taker. Never changes';
COMMENT ON COLUMN aas.requests.digest IS 'SHA-256 of the request''s format and bytes. Never changes';
COMMENT ON COLUMN aas.requests.day IS
    'Day (UTC) on which it was counted, which tells when the row may go. Never changes';
COMMENT ON COLUMN aas.requests.repeats IS 'Number of repeats. Grows';

CREATE TABLE aas.issued_in_all (
    day date NOT NULL,
    token_type integer NOT NULL,
    tokens bigint NOT NULL,
    PRIMARY KEY (day, token_type)
);
COMMENT ON TABLE aas.issued_in_all IS 'Tokens issued to all takers together on days that aas.issued no longer has';
COMMENT ON COLUMN aas.issued_in_all.day IS 'Day (UTC). Never changes';
COMMENT ON COLUMN aas.issued_in_all.token_type IS 'Privacy Pass token type. Never changes';
COMMENT ON COLUMN aas.issued_in_all.tokens IS 'Tokens issued on that day. Grows';

CREATE TABLE aas.token_use (
    day date NOT NULL,
    endpoint text COLLATE "C" NOT NULL,
    price smallint NOT NULL,
    requests bigint NOT NULL,
    PRIMARY KEY (day, endpoint, price)
) WITH (fillfactor = 70);
COMMENT ON TABLE aas.token_use IS
    'Requests that all takers together paid for. Servers add to it every minute, so a server that is killed loses up to a minute''s';
COMMENT ON COLUMN aas.token_use.day IS 'Day (UTC). Never changes';
COMMENT ON COLUMN aas.token_use.endpoint IS 'Name of the API function. Never changes';
COMMENT ON COLUMN aas.token_use.price IS 'Tokens that each request cost. Never changes';
COMMENT ON COLUMN aas.token_use.requests IS 'Requests with a good token. Grows';

-- No statistics quote the ids of an erased account (PRIV-3).
ALTER TABLE aas.takers ALTER COLUMN taker SET STATISTICS 0, ALTER COLUMN user_id SET STATISTICS 0;
ALTER TABLE aas.issued ALTER COLUMN taker SET STATISTICS 0;
ALTER TABLE aas.requests ALTER COLUMN taker SET STATISTICS 0;
ALTER TABLE aas.allowances ALTER COLUMN taker SET STATISTICS 0;

-- Outcomes of API functions, success first. A refusal is an answer and not an exception, so that the token stays spent.
CREATE TYPE aas.settle_token_outcome AS ENUM ('spent', 'token_spent');
COMMENT ON TYPE aas.settle_token_outcome IS 'Outcomes of aas.settle_token';
CREATE TYPE aas.admit_signer_outcome AS ENUM (
    'admitted', 'unknown_signer', 'blocked', 'signature_used', 'suspended', 'refused_too_often');
COMMENT ON TYPE aas.admit_signer_outcome IS 'Outcomes of aas.admit_signer';
CREATE TYPE aas.take_allowance_outcome AS ENUM ('granted', 'used_up', 'unknown_signer', 'blocked', 'suspended');
COMMENT ON TYPE aas.take_allowance_outcome IS 'Outcomes of aas.take_allowance and aas.take';
CREATE TYPE aas.add_issuer_key_outcome AS ENUM ('added', 'not_due', 'collides');
COMMENT ON TYPE aas.add_issuer_key_outcome IS 'Outcomes of aas.add_issuer_key';
CREATE TYPE aas.drop_retired_key_outcome AS ENUM ('dropped', 'none', 'busy');
COMMENT ON TYPE aas.drop_retired_key_outcome IS 'Outcomes of aas.drop_retired_key';
