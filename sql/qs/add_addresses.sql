-- qs.add_addresses: gives a queue more addresses (QS-3).
--
--   issuer_key, nonce: the token that pays
--   queue_id: 16 bytes
--   signer: Ed25519 key, verified by the caller
--   addresses: 32 random bytes each; only hashes of them are kept
--   last_resort: the same, for last-resort KeyPackages: these do not bind (QS-6)
--
-- Returns added, token_spent; unknown_queue: also for another signer than the owner; too_many_addresses,
-- address_exists. All of them are added, or none.
-- Called by POST /qs/queues/{queue_id}/addresses.
CREATE OR REPLACE FUNCTION qs.add_addresses(
    issuer_key smallint, nonce bytea,
    queue_id bytea, signer bytea, addresses bytea[], last_resort bytea[] DEFAULT '{}',
    OUT outcome qs.add_addresses_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := (now() AT TIME ZONE 'UTC')::date;
    every CONSTANT bytea[] := addresses || last_resort;
    wanted CONSTANT integer := cardinality(every);
    wanted_last_resort CONSTANT integer := cardinality(last_resort);
    held record;
    limits record;
BEGIN
    IF NOT aas.spend_token('qs.add_addresses', add_addresses.issuer_key, add_addresses.nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;

    SELECT q.address_count, q.last_resort_count INTO held
      FROM qs.queues q
     WHERE q.queue_id = add_addresses.queue_id AND q.owner_key = add_addresses.signer
       FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown_queue';
        RETURN;
    END IF;
    SELECT s.addresses_per_queue, s.last_resort_addresses_per_queue INTO limits FROM qs.settings s;
    IF held.address_count + wanted > limits.addresses_per_queue
       OR held.last_resort_count + wanted_last_resort > limits.last_resort_addresses_per_queue THEN
        outcome := 'too_many_addresses';
    ELSIF (SELECT count(DISTINCT n.lookup) < wanted OR count(a.lookup) > 0
             FROM postern.seal_addresses(every, add_addresses.queue_id) n
             LEFT JOIN qs.addresses a ON a.lookup = n.lookup) THEN
        outcome := 'address_exists';
    ELSE
        INSERT INTO qs.addresses AS a (lookup, sealed_queue_id, last_resort)
        SELECT n.lookup, n.sealed_queue_id, false
          FROM postern.seal_addresses(add_addresses.addresses, add_addresses.queue_id) n
         UNION ALL
        SELECT n.lookup, n.sealed_queue_id, true
          FROM postern.seal_addresses(add_addresses.last_resort, add_addresses.queue_id) n;
        UPDATE qs.queues q
           SET address_count = q.address_count + wanted,
               last_resort_count = q.last_resort_count + wanted_last_resort,
               last_active = today
         WHERE q.queue_id = add_addresses.queue_id;
        outcome := 'added';
    END IF;
END
$$;
