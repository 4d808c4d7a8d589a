-- Anonymous Authentication Service: issuer keys, allowances, spent tokens and prices (AAS-2
-- to AAS-5). What is kept at issuance (who got how many) and at redemption (a nonce) has
-- nothing in common that could join the two (AAS-6).

CREATE TABLE aas.issuer_keys (
    issuer_key smallint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    token_type integer NOT NULL CHECK (token_type BETWEEN 1 AND 65535),
    public_key bytea NOT NULL UNIQUE,
    sealed_seed bytea NOT NULL,
    not_before date NOT NULL
);
COMMENT ON TABLE aas.issuer_keys IS 'Keys that tokens are issued with (RFC 9578)';
COMMENT ON COLUMN aas.issuer_keys.issuer_key IS 'Short name of the key, by which spent tokens are filed. Never changes';
COMMENT ON COLUMN aas.issuer_keys.token_type IS 'Privacy Pass token type: 5 is VOPRF over ristretto255, amortized. Never changes';
COMMENT ON COLUMN aas.issuer_keys.public_key IS 'Public key in the encoding of its token type. Never changes';
COMMENT ON COLUMN aas.issuer_keys.sealed_seed IS 'The seed its private key comes from, sealed under the server''s master key. Never changes';
COMMENT ON COLUMN aas.issuer_keys.not_before IS 'First day (UTC) of its use. Never changes';

-- Logged, never UNLOGGED: a crash must not reopen a token. Partitioned, so that a retired
-- key's tokens go in one stroke.
CREATE TABLE aas.spent (
    issuer_key smallint NOT NULL,
    nonce bytea NOT NULL CHECK (octet_length(nonce) = 32),
    PRIMARY KEY (issuer_key, nonce)
) PARTITION BY LIST (issuer_key);
COMMENT ON TABLE aas.spent IS 'Tokens that were redeemed (AAS-4). Rows never change';
COMMENT ON COLUMN aas.spent.issuer_key IS 'The key it was issued with; each has a partition. Never changes';
COMMENT ON COLUMN aas.spent.nonce IS 'The token''s nonce (RFC 9577 §2.2), which the issuer has not seen. Never changes';

CREATE TABLE aas.prices (
    endpoint text COLLATE "C" PRIMARY KEY,
    price smallint NOT NULL CHECK (price IN (0, 1))
);
COMMENT ON TABLE aas.prices IS 'Endpoints whose price is not one token (AAS-5)';
COMMENT ON COLUMN aas.prices.endpoint IS 'Name of the API function, such as qs.deposit. Never changes';
COMMENT ON COLUMN aas.prices.price IS 'Tokens it costs. Changes as the operator likes';

CREATE TABLE aas.settings (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    daily_allowance integer NOT NULL CHECK (daily_allowance >= 0)
);
COMMENT ON TABLE aas.settings IS 'One row of defaults';
COMMENT ON COLUMN aas.settings.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN aas.settings.daily_allowance IS 'Tokens a user may have per day (UTC). Changes as the operator likes';
INSERT INTO aas.settings (daily_allowance) VALUES (10000);

CREATE TABLE aas.issued (
    user_id bigint NOT NULL REFERENCES auth.users ON DELETE CASCADE,
    day date NOT NULL,
    tokens integer NOT NULL CHECK (tokens > 0),
    PRIMARY KEY (user_id, day)
) WITH (fillfactor = 70);
COMMENT ON TABLE aas.issued IS 'How much of today''s allowance each user took (AAS-2)';
COMMENT ON COLUMN aas.issued.user_id IS 'Who. Never changes';
COMMENT ON COLUMN aas.issued.day IS 'Day (UTC). Never changes';
COMMENT ON COLUMN aas.issued.tokens IS 'Tokens issued on that day. Grows';
