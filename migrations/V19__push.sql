-- Web Push (QS-10): where a queue's pushes go, as bytes that only its addresses open.

-- A table of its own, since every delivery writes the queue's row anew.
CREATE TABLE qs.push_subscriptions (
    queue_id bytea PRIMARY KEY CHECK (octet_length(queue_id) = 16),
    subscription bytea NOT NULL CHECK (octet_length(subscription) = 1052)
);
COMMENT ON TABLE qs.push_subscriptions IS 'Queues that have a push subscription (RFC 8030). Goes with the queue';
COMMENT ON COLUMN qs.push_subscriptions.queue_id IS 'Whose. Never changes';
COMMENT ON COLUMN qs.push_subscriptions.subscription IS 'Endpoint and keys, padded, under a key that the queue''s addresses carry (12 + 1024 + 16 bytes). Changes';

ALTER TABLE qs.addresses ADD COLUMN sealed_push bytea CHECK (octet_length(sealed_push) = 61);
COMMENT ON COLUMN qs.addresses.sealed_push IS 'From which urgency on a message to this address is pushed, and the key of the subscription, under a key derived from the address (12 + 33 + 16 bytes); null: never. Changes';

CREATE TABLE qs.application_server_keys (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 65),
    sealed_private_key bytea NOT NULL
);
COMMENT ON TABLE qs.application_server_keys IS 'The key by which push services know this server (RFC 8292): one row. Subscriptions are made for it, so it stays';
COMMENT ON COLUMN qs.application_server_keys.singleton IS 'Always true: there is one row. Never changes';
COMMENT ON COLUMN qs.application_server_keys.public_key IS 'P-256 public key, an uncompressed point. Never changes';
COMMENT ON COLUMN qs.application_server_keys.sealed_private_key IS 'Its private half in PKCS #8, sealed under the server''s master key. Never changes';
