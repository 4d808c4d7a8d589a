-- qs.lock_addresses: locks addresses of a queue before they are renewed, changed or dropped, in the order in which
-- deliveries bind them and, as deliveries do, before the queue: so neither waits for the other for ever.
--
--   addresses: 32 bytes each. Sealing the queue's id under each checks that they are this queue's: only its own rows
--     hold the same.
--   queue_id: 16 bytes
--
-- Returns whether all of them are this queue's; those that are, are locked.
-- Called by qs.add_addresses, qs.revoke_addresses, qs.set_push_policy and qs.delete_queue.
CREATE OR REPLACE FUNCTION qs.lock_addresses(addresses bytea[], queue_id bytea)
RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    locked bigint;
BEGIN
    PERFORM FROM qs.addresses a
      WHERE (a.lookup, a.sealed_queue_id) IN (
            SELECT n.lookup, n.sealed_queue_id
              FROM postern.seal_addresses(addresses, lock_addresses.queue_id) n)
      ORDER BY a.lookup
        FOR UPDATE;
    GET DIAGNOSTICS locked = ROW_COUNT;
    RETURN locked = (SELECT count(DISTINCT a.address) FROM unnest(addresses) a (address));
END
$$;
