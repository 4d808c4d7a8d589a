-- qs.add_addresses: gives a queue more addresses, and renews those that it has already (QS-3).
--
--   issuer_key, nonce: the token that pays
--   queue_id: 16 bytes
--   signer: Ed25519 key, verified by the caller
--   addresses: 32 random bytes each; only hashes of them are kept
--   last_resort: the same, for last-resort KeyPackages: these do not bind (QS-6)
--
-- Returns added, token_spent; unknown_queue: also for another signer than the owner; too_many_addresses;
-- address_exists: another queue has one of them, or one is named twice. All of them are the queue's afterwards, or none is
-- added; those that it had already are what they were.
-- Called by POST /qs/queues/{queue_id}/addresses.
CREATE OR REPLACE FUNCTION qs.add_addresses(
    issuer_key smallint, nonce bytea,
    queue_id bytea, signer bytea, addresses bytea[], last_resort bytea[] DEFAULT '{}',
    OUT outcome qs.add_addresses_outcome)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today CONSTANT date := operator.today();
    every CONSTANT bytea[] := addresses || last_resort;
    wanted CONSTANT integer := cardinality(every);
    wanted_last_resort CONSTANT integer := cardinality(last_resort);
    held record;
    limits record;
    known record;
    added bytea[];
BEGIN
    IF NOT aas.spend_token('qs.add_addresses', add_addresses.issuer_key, add_addresses.nonce) THEN
        outcome := 'token_spent';
        RETURN;
    END IF;

    PERFORM qs.lock_addresses(every, add_addresses.queue_id);
    SELECT q.address_count, q.last_resort_count INTO held
      FROM qs.queues q
     WHERE q.queue_id = add_addresses.queue_id AND q.owner_key = add_addresses.signer
       FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 'unknown_queue';
        RETURN;
    END IF;
    SELECT s.addresses_per_queue, s.last_resort_addresses_per_queue INTO limits FROM qs.settings s;
    SELECT coalesce(array_agg(a.lookup), '{}') AS lookups, count(*)::integer AS number,
           (count(*) FILTER (WHERE n.place > wanted - wanted_last_resort))::integer AS as_last_resort
      INTO known
      FROM postern.seal_addresses(every, add_addresses.queue_id) WITH ORDINALITY n (lookup, sealed_queue_id, place)
      JOIN qs.addresses a ON a.lookup = n.lookup AND a.sealed_queue_id = n.sealed_queue_id;
    -- A queue with more than a new limit allows gets no more, and renews those that it has.
    IF wanted > known.number AND held.address_count + wanted - known.number > limits.addresses_per_queue
       OR wanted_last_resort > known.as_last_resort
          AND held.last_resort_count + wanted_last_resort - known.as_last_resort > limits.last_resort_addresses_per_queue
    THEN
        outcome := 'too_many_addresses';
        RETURN;
    END IF;

    -- In the order of lookups: of two requests with the same addresses one waits for the other.
    WITH fresh AS (
        INSERT INTO qs.addresses AS a (lookup, sealed_queue_id, last_resort)
        SELECT n.lookup, n.sealed_queue_id, n.place > wanted - wanted_last_resort
          FROM postern.seal_addresses(every, add_addresses.queue_id)
               WITH ORDINALITY n (lookup, sealed_queue_id, place)
         WHERE n.lookup <> ALL (known.lookups)
         ORDER BY n.lookup
        ON CONFLICT ON CONSTRAINT addresses_pkey DO NOTHING
        RETURNING a.lookup
    )
    SELECT coalesce(array_agg(f.lookup), '{}') INTO added FROM fresh f;
    IF cardinality(added) + known.number < wanted
       OR (SELECT count(DISTINCT k.lookup) FROM unnest(known.lookups) k (lookup)) < known.number THEN
        DELETE FROM qs.addresses a WHERE a.lookup = ANY (added);
        outcome := 'address_exists';
        RETURN;
    END IF;
    UPDATE qs.addresses a SET season = DEFAULT
     WHERE a.lookup = ANY (known.lookups) AND a.season < qs.season(today);
    UPDATE qs.queues q
       SET address_count = q.address_count + cardinality(added),
           last_resort_count = q.last_resort_count + wanted_last_resort - known.as_last_resort,
           last_active = today
     WHERE q.queue_id = add_addresses.queue_id;
    outcome := 'added';
END
$$;
