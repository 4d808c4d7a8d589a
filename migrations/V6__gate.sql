-- The gate, complete: issuer keys with a validity, allowances by taker and token type, what makes a
-- repeated token request free, and figures of use (AAS-2, AAS-5).

-- Issuer keys come and go. All keys of the table are published or redeemed; a row goes with its
-- partition of aas.spent.
ALTER TABLE aas.issuer_keys
    ADD COLUMN not_after date,
    ADD COLUMN retires date,
    ADD COLUMN truncated_key_id smallint NOT NULL GENERATED ALWAYS AS (get_byte(sha256(public_key), 31)) STORED;
UPDATE aas.issuer_keys
   SET not_after = (now() AT TIME ZONE 'UTC')::date + 30,
       retires = (now() AT TIME ZONE 'UTC')::date + 90;
ALTER TABLE aas.issuer_keys
    ALTER COLUMN not_after SET NOT NULL,
    ALTER COLUMN retires SET NOT NULL,
    ADD CONSTRAINT issuer_keys_validity CHECK (not_before <= not_after AND not_after <= retires),
    -- Requests name their key by its type and one byte (RFC 9578 §5.1).
    ADD CONSTRAINT issuer_keys_truncated UNIQUE (token_type, truncated_key_id);
COMMENT ON COLUMN aas.issuer_keys.sealed_seed IS 'The seed its private key comes from (0x0002: the private key, PKCS #8), sealed under the server''s master key. Never changes';
COMMENT ON COLUMN aas.issuer_keys.not_before IS 'First day (UTC) for which clients are told to use it. Never changes';
COMMENT ON COLUMN aas.issuer_keys.not_after IS 'The day (UTC) from which on it issues no more. Comes nearer at a rotation asked for';
COMMENT ON COLUMN aas.issuer_keys.retires IS 'The day (UTC) from which on its tokens are worth nothing. Comes nearer when it is revoked';
COMMENT ON COLUMN aas.issuer_keys.truncated_key_id IS 'Last byte of the token key id, which is SHA-256 of the public key. Never changes';

ALTER TABLE aas.settings
    ADD COLUMN issuing_days integer NOT NULL DEFAULT 30 CHECK (issuing_days BETWEEN 10 AND 365),
    -- A successor is published up to two days before its not_before.
    ADD COLUMN overlap_days integer NOT NULL DEFAULT 7 CHECK (overlap_days BETWEEN 3 AND 9),
    ADD COLUMN redeeming_days integer NOT NULL DEFAULT 60 CHECK (redeeming_days BETWEEN 1 AND 365),
    ADD COLUMN homeserver_allowance integer NOT NULL DEFAULT 1000000 CHECK (homeserver_allowance >= 0);
COMMENT ON COLUMN aas.settings.issuing_days IS 'For how many days an issuer key issues. Changes as the operator likes';
COMMENT ON COLUMN aas.settings.overlap_days IS 'For how many days it still issues after its successor was made. Changes as the operator likes';
COMMENT ON COLUMN aas.settings.redeeming_days IS 'For how many days its tokens are good after the last was issued. Changes as the operator likes';
COMMENT ON COLUMN aas.settings.homeserver_allowance IS 'Tokens a federated domain may have per day (UTC). Changes as the operator likes';

-- Who takes tokens: users by their clients, domains by their homeservers.
CREATE TABLE aas.takers (
    taker bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    user_id bigint UNIQUE REFERENCES auth.users ON DELETE CASCADE,
    domain operator.domain_name UNIQUE,
    CHECK (num_nonnulls(user_id, domain) = 1)
);
COMMENT ON TABLE aas.takers IS 'Who asked for tokens, or has an allowance of its own. The row''s lock orders the requests of one taker';
COMMENT ON COLUMN aas.takers.taker IS 'Short name. Never changes';
COMMENT ON COLUMN aas.takers.user_id IS 'The user, if it is one. Never changes';
COMMENT ON COLUMN aas.takers.domain IS 'The federated domain, if it is one. Never changes';

CREATE TABLE aas.allowances (
    taker bigint REFERENCES aas.takers ON DELETE CASCADE,
    token_type integer CHECK (token_type BETWEEN 1 AND 65535),
    tokens integer NOT NULL CHECK (tokens >= 0),
    UNIQUE NULLS NOT DISTINCT (taker, token_type),
    CHECK (num_nonnulls(taker, token_type) >= 1)
);
COMMENT ON TABLE aas.allowances IS 'Allowances other than the defaults of aas.settings';
COMMENT ON COLUMN aas.allowances.taker IS 'Whose; null: everyone''s who has none. Never changes';
COMMENT ON COLUMN aas.allowances.token_type IS 'Of which token type, within the whole; null: the whole. Never changes';
COMMENT ON COLUMN aas.allowances.tokens IS 'Tokens per day (UTC). Changes as the operator likes';

INSERT INTO aas.takers (user_id) SELECT DISTINCT user_id FROM aas.issued;
ALTER TABLE aas.issued RENAME TO issued_before;
ALTER TABLE aas.issued_before RENAME CONSTRAINT issued_pkey TO issued_before_pkey;
CREATE TABLE aas.issued (
    taker bigint NOT NULL REFERENCES aas.takers ON DELETE CASCADE,
    day date NOT NULL,
    token_type integer NOT NULL,
    tokens integer NOT NULL CHECK (tokens > 0),
    PRIMARY KEY (taker, day, token_type)
) WITH (fillfactor = 70);
COMMENT ON TABLE aas.issued IS 'How much of the allowance of today and yesterday each taker took (AAS-2)';
COMMENT ON COLUMN aas.issued.taker IS 'Who. Never changes';
COMMENT ON COLUMN aas.issued.day IS 'Day (UTC). Never changes';
COMMENT ON COLUMN aas.issued.token_type IS 'Privacy Pass token type. Never changes';
COMMENT ON COLUMN aas.issued.tokens IS 'Tokens issued on that day. Grows';
INSERT INTO aas.issued (taker, day, token_type, tokens)
SELECT t.taker, b.day, 5, b.tokens FROM aas.issued_before b JOIN aas.takers t USING (user_id);
DROP TABLE aas.issued_before;

-- Blinded elements say nothing of the tokens that come of them, so neither does their digest (AAS-6).
CREATE TABLE aas.requests (
    taker bigint NOT NULL REFERENCES aas.takers ON DELETE CASCADE,
    digest bytea NOT NULL CHECK (octet_length(digest) = 32),
    day date NOT NULL,
    repeats smallint NOT NULL DEFAULT 0,
    PRIMARY KEY (taker, digest)
) WITH (fillfactor = 90);
CREATE INDEX requests_by_day ON aas.requests (day);
COMMENT ON TABLE aas.requests IS 'Token requests of today and yesterday: a repeat of one, after its answer was lost, is free';
COMMENT ON COLUMN aas.requests.taker IS 'Whose. Never changes';
COMMENT ON COLUMN aas.requests.digest IS 'SHA-256 of its format and bytes. Never changes';
COMMENT ON COLUMN aas.requests.day IS 'Day (UTC) on which it was counted. Never changes';
COMMENT ON COLUMN aas.requests.repeats IS 'How often it was repeated. Grows';

CREATE TABLE aas.issued_in_all (
    day date NOT NULL,
    token_type integer NOT NULL,
    tokens bigint NOT NULL,
    PRIMARY KEY (day, token_type)
);
COMMENT ON TABLE aas.issued_in_all IS 'What became of aas.issued: tokens issued to all takers together';
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
COMMENT ON TABLE aas.token_use IS 'What tokens were spent for, by everyone together. Servers add to it every minute, so a server that is killed loses up to a minute''s';
COMMENT ON COLUMN aas.token_use.day IS 'Day (UTC). Never changes';
COMMENT ON COLUMN aas.token_use.endpoint IS 'Name of the API function. Never changes';
COMMENT ON COLUMN aas.token_use.price IS 'Tokens each cost. Never changes';
COMMENT ON COLUMN aas.token_use.requests IS 'Requests with a token that was good. Grows';
