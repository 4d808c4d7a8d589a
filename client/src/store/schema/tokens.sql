-- Unspent tokens. Each is deleted before it is sent: no crash spends it twice.
CREATE TABLE tokens (
    token BLOB PRIMARY KEY,             -- as it is redeemed (RFC 9577 §2.2)
    domain TEXT NOT NULL,               -- the issuer's
    issuer_key BLOB NOT NULL            -- the token key id: SHA-256 of the issuer's public key
) STRICT;

CREATE INDEX tokens_by_domain ON tokens (domain);

-- The token requests whose answers are outstanding, of each issuer one at a time.
CREATE TABLE token_requests (
    domain TEXT PRIMARY KEY,            -- the issuer's
    issuer_key BLOB NOT NULL,           -- the issuer's public key
    secrets BLOB NOT NULL               -- for each token a nonce (32) and a blind (32)
) STRICT;

-- Keys that tokens are issued with, as everyone sees them.
CREATE TABLE token_keys (
    token_type INTEGER NOT NULL,
    token_key TEXT NOT NULL,            -- as the directory has it
    not_before INTEGER NOT NULL,        -- seconds since 1970
    live INTEGER NOT NULL,              -- 1 while the directory has it
    PRIMARY KEY (token_type, token_key)
) STRICT;

-- When this device compared them with what strangers see, in seconds since 1970.
CREATE TABLE directory_checks (one INTEGER PRIMARY KEY CHECK (one = 1), checked INTEGER NOT NULL) STRICT;
