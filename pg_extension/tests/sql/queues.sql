-- The functions of qs (QS-1 to QS-4).
SELECT * FROM qs.create_queue(1::smallint, 'n1', queue(11), 'contact', sha256('owner 11'), hpke_key());
SELECT * FROM qs.create_queue(1::smallint, 'n1', queue(12), 'contact', sha256('owner 12'), hpke_key());
SELECT * FROM qs.create_queue(1::smallint, 'n2', queue(11), 'group', sha256('other'), hpke_key());
SELECT kind, next_seq, acked_seq, last_chain, address_count, last_active = (now() AT TIME ZONE 'UTC')::date AS same_day
  FROM qs.queues WHERE queue_id = queue(11);

SELECT * FROM qs.add_addresses(1::smallint, 'n2', queue(11), sha256('owner 11'), ARRAY[address('q1')]);
SELECT * FROM qs.add_addresses(1::smallint, 'n3', queue(11), sha256('stranger'), ARRAY[address('q1')]);
SELECT * FROM qs.add_addresses(1::smallint, 'n4', queue(12), sha256('owner 12'), ARRAY[address('q1')]);
SELECT * FROM qs.add_addresses(1::smallint, 'n5', queue(11), sha256('owner 11'), ARRAY[address('q1'), address('q2')]);
SELECT * FROM qs.add_addresses(1::smallint, 'n6', queue(11), sha256('owner 11'), ARRAY[address('q3'), address('q1')]);
SELECT * FROM qs.add_addresses(1::smallint, 'n7', queue(11), sha256('owner 11'), ARRAY[address('q3'), address('q3')]);
UPDATE qs.settings SET addresses_per_queue = 3;
SELECT * FROM qs.add_addresses(1::smallint, 'n8', queue(11), sha256('owner 11'), ARRAY[address('q3'), address('q4')]);
SELECT * FROM qs.add_addresses(1::smallint, 'n9', queue(11), sha256('owner 11'), ARRAY[address('q3')]);
UPDATE qs.settings SET addresses_per_queue = 2;
SELECT * FROM qs.add_addresses(1::smallint, 'n9 again', queue(11), sha256('owner 11'), ARRAY[address('q3')]);
UPDATE qs.settings SET addresses_per_queue = 10000;
SELECT address_count FROM qs.queues WHERE queue_id = queue(11);
-- A malformed address is a fault: the server lets none through.
\set VERBOSITY terse
SELECT * FROM qs.add_addresses(1::smallint, 'n10', queue(11), sha256('owner 11'), ARRAY['\x00'::bytea]);

SELECT outcome FROM qs.deposit(1::smallint, 'n11', address('q1'), 'one', 2::smallint, 3);
SELECT outcome FROM qs.deposit(1::smallint, 'n11', address('q1'), 'one', 2::smallint, 3);
SELECT outcome FROM qs.deposit(1::smallint, 'n12', address('nobody'), 'one', 2::smallint, 3);
SELECT outcome FROM qs.deposit(1::smallint, 'n13', address('q2'), 'two two', 2::smallint, 7);
SELECT outcome FROM qs.deposit(1::smallint, 'n14', address('q1'), 'three three three', 2::smallint, 17);

-- Dequeue: bounded by number and bytes, but always one; what is acknowledged is gone.
CREATE FUNCTION dequeue(nonce text, after bigint, max_messages integer, max_bytes integer, owner text DEFAULT 'owner 11',
    OUT outcome text, OUT seqs bigint[], OUT chains bigint[], OUT indexes integer[], OUT headers text, OUT bytes text)
LANGUAGE sql AS $$
    SELECT outcome, seqs, chains, chain_indexes,
           (SELECT string_agg(coalesce(octet_length(h), 0)::text, ' ') FROM unnest(chain_headers) AS h),
           (SELECT string_agg(octet_length(c)::text, ' ') FROM unnest(ciphertexts) AS c)
      FROM qs.dequeue(1::smallint, nonce::bytea, queue(11), sha256(owner::bytea), after, max_messages, max_bytes);
$$;
SELECT * FROM dequeue('d1', 0, 10, 10000);
SELECT * FROM dequeue('d1', 0, 10, 10000);
SELECT * FROM dequeue('d2', 0, 10, 10000, 'stranger');
SELECT * FROM dequeue('d3', 0, 2, 10000);
SELECT * FROM dequeue('d4', 0, 10, 42);
SELECT * FROM dequeue('d5', 0, 10, 41);
SELECT * FROM dequeue('d6', 0, 10, 1);
SELECT count(*) FROM messages(11);
SELECT * FROM dequeue('d7', 2, 10, 10000);
SELECT * FROM messages(11);
-- An old number deletes nothing more and returns what is left.
SELECT * FROM dequeue('d8', 0, 10, 10000);
-- A number never given out deletes nothing.
SELECT * FROM dequeue('d9', 4, 10, 10000);
SELECT * FROM messages(11);
SELECT * FROM dequeue('d10', 3, 10, 10000);
SELECT count(*) FROM messages(11);
SELECT next_seq, acked_seq FROM qs.queues WHERE queue_id = queue(11);
-- Messages that were acknowledged make room.
UPDATE qs.settings SET contact_queue_depth = 1;
SELECT outcome FROM qs.deposit(1::smallint, 'n15', address('q1'), 'four', 2::smallint, 4);
SELECT outcome FROM qs.deposit(1::smallint, 'n16', address('q1'), 'five', 2::smallint, 4);
UPDATE qs.settings SET contact_queue_depth = 1000;

SELECT outcome, seqs FROM qs.next_messages(queue(11), sha256('owner 11'), 3, 10, 10000);
SELECT outcome, seqs FROM qs.next_messages(queue(11), sha256('owner 11'), 4, 10, 10000);
SELECT outcome, seqs FROM qs.next_messages(queue(11), sha256('stranger'), 3, 10, 10000);

-- No address is stored, and none can be seen to belong to a queue.
SELECT count(*) FROM qs.addresses a WHERE a.lookup = address('q1') OR a.sealed_queue_id LIKE '%' || queue(11) || '%';
