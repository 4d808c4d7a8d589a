-- What a queue's owner may do beside reading (QS-7), and addresses that lead there from several
-- groups (QS-6).

ALTER TABLE qs.settings
    ADD COLUMN last_resort_addresses_per_queue integer NOT NULL DEFAULT 16
        CHECK (last_resort_addresses_per_queue >= 0);
COMMENT ON COLUMN qs.settings.last_resort_addresses_per_queue IS 'Addresses that do not bind, of those a queue has at most. May change';

ALTER TABLE qs.queues ADD COLUMN last_resort_count qs.counter NOT NULL DEFAULT 0;
COMMENT ON COLUMN qs.queues.last_resort_count IS 'How many of the addresses do not bind. Changes';

-- A last-resort KeyPackage is given to several inviters, and its address with it: bound to the
-- first group that uses it, it would be worthless in the others.
ALTER TABLE qs.addresses
    ADD COLUMN last_resort boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT addresses_last_resort_unbound CHECK (NOT (last_resort AND binding IS NOT NULL)) NOT VALID;
ALTER TABLE qs.addresses VALIDATE CONSTRAINT addresses_last_resort_unbound;
COMMENT ON COLUMN qs.addresses.last_resort IS 'It is a last-resort KeyPackage''s and never binds: every group may use it. Never changes';
