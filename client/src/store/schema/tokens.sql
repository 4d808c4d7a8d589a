-- Unspent tokens. Each is deleted before it is sent: no crash spends it twice.
CREATE TABLE tokens (
    token BLOB PRIMARY KEY,             -- as it is redeemed (RFC 9577 §2.2)
    issuer_key BLOB NOT NULL            -- the token key id: SHA-256 of the issuer's public key
) STRICT;

-- The token request whose answer is outstanding, one at a time.
CREATE TABLE token_requests (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    issuer_key BLOB NOT NULL,           -- the issuer's public key
    secrets BLOB NOT NULL               -- for each token a nonce (32) and a blind (32)
) STRICT;
