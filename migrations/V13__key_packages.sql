-- KeyPackages and the friendship tokens they are fetched with (QS-6).

-- The QS signs batches of KeyPackages, and keeps its keys as the AS does.
ALTER TABLE auth.signing_keys
    ADD COLUMN service text NOT NULL DEFAULT 'as' CHECK (service IN ('as', 'qs'));
COMMENT ON TABLE auth.signing_keys IS 'Keys that services sign with: client credentials (AS-2), batches of KeyPackages (QS-6). The newest of a service that is valid signs, all are published';
COMMENT ON COLUMN auth.signing_keys.service IS 'as: Authentication Service. qs: Queuing Service. Never changes';

ALTER TABLE qs.settings
    ADD COLUMN key_packages_per_stock integer NOT NULL DEFAULT 100 CHECK (key_packages_per_stock > 0),
    ADD COLUMN stocks_per_friendship integer NOT NULL DEFAULT 32 CHECK (stocks_per_friendship > 0);
COMMENT ON COLUMN qs.settings.key_packages_per_stock IS 'KeyPackages a client has in stock at most, its last resort not counted. May change';
COMMENT ON COLUMN qs.settings.stocks_per_friendship IS 'Clients a friendship has at most. May change';

-- Whoever changes anything of a friendship locks its row, and whoever takes from it shares it.
CREATE TABLE qs.friendships (
    friendship_id bytea PRIMARY KEY CHECK (octet_length(friendship_id) = 16),
    lookup bytea NOT NULL UNIQUE CHECK (octet_length(lookup) = 32),
    owner_key bytea NOT NULL CHECK (octet_length(owner_key) = 32),
    last_active date NOT NULL
) WITH (fillfactor = 90);
COMMENT ON TABLE qs.friendships IS 'Users, each under the pseudonym of a friendship token, as far as they have KeyPackages here. Joined to no queue, no address and no name';
COMMENT ON COLUMN qs.friendships.friendship_id IS '16 random bytes, known to this schema only. Never changes';
COMMENT ON COLUMN qs.friendships.lookup IS 'Labelled SHA-256 of the friendship token (32 bytes). Changes when the token is rotated';
COMMENT ON COLUMN qs.friendships.owner_key IS 'Ed25519 public key (32 bytes) that signs the requests of the user''s clients. Never changes';
COMMENT ON COLUMN qs.friendships.last_active IS 'Day (UTC) of the owner''s last request. Grows';

CREATE TABLE qs.stocks (
    friendship_id bytea NOT NULL REFERENCES qs.friendships ON DELETE CASCADE,
    stock_id bytea NOT NULL CHECK (octet_length(stock_id) = 16),
    sealed_key bytea NOT NULL CHECK (octet_length(sealed_key) = 60),
    PRIMARY KEY (friendship_id, stock_id)
) WITH (fillfactor = 90);
COMMENT ON TABLE qs.stocks IS 'The clients of a friendship';
COMMENT ON COLUMN qs.stocks.friendship_id IS 'Whose client. Never changes';
COMMENT ON COLUMN qs.stocks.stock_id IS '16 random bytes, chosen by the client. Never changes';
COMMENT ON COLUMN qs.stocks.sealed_key IS 'The key of its packages under one derived from the friendship token (12 + 32 + 16 bytes). Changes with each publication, and with the token';

CREATE TABLE qs.key_packages (
    friendship_id bytea NOT NULL,
    stock_id bytea NOT NULL,
    number smallint NOT NULL CHECK (number >= 0),
    last_resort boolean NOT NULL CHECK (last_resort = (number = 0)),
    expires date NOT NULL,
    sealed bytea NOT NULL,
    PRIMARY KEY (friendship_id, stock_id, number),
    FOREIGN KEY (friendship_id, stock_id) REFERENCES qs.stocks ON DELETE CASCADE
) WITH (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE qs.key_packages ALTER COLUMN sealed SET STORAGE EXTERNAL;
COMMENT ON TABLE qs.key_packages IS 'KeyPackages in stock. A row goes when it is handed out';
COMMENT ON COLUMN qs.key_packages.friendship_id IS 'Whose. Never changes';
COMMENT ON COLUMN qs.key_packages.stock_id IS 'Of which client. Never changes';
COMMENT ON COLUMN qs.key_packages.number IS 'Its place in the publication, from 1; 0: the last resort. Never changes';
COMMENT ON COLUMN qs.key_packages.last_resort IS 'Stays when it is handed out, which is when nothing else is left. Never changes';
COMMENT ON COLUMN qs.key_packages.expires IS 'Day (UTC) on which its lifetime ends: from then on it is not handed out. Never changes';
COMMENT ON COLUMN qs.key_packages.sealed IS 'The package and its attachment under the stock''s key: who has a dump and no friendship token sees neither key nor address in it (PRIV-1). Never changes';
