-- Owners and their queues (QS-7), and addresses that do not bind (QS-6).
SELECT make_queue(21, 'group', 'o1 o2 o3');
SELECT make_queue(22, 'group', 'p1');
CREATE FUNCTION counts(n integer) RETURNS text LANGUAGE sql AS $$
    SELECT format('%s addresses, %s last resort', address_count, last_resort_count)
      FROM qs.queues WHERE queue_id = queue(n);
$$;

-- Addresses of last resort are delivered to from any group of any domain, and count.
SELECT * FROM qs.add_addresses(1::smallint, nonce(), queue(21), sha256('owner 21'), ARRAY[address('o4')], ARRAY[address('l1')]);
SELECT counts(21);
SELECT deliver('g', 'l1 o1', '{1,1}', '{x}'), deliver('h', 'l1 o1', '{1,1}', '{x}'), deliver('g', 'l1', '{1}', '{x}', 'example.com');
SELECT count(*) FROM qs.addresses WHERE last_resort AND binding IS NULL;
-- Anyone's deposit still needs a contact queue.
SELECT deliver(NULL, 'l1', '{1}', '{x}', NULL);
-- A few of them per queue; both kinds count as addresses, and none comes twice.
UPDATE qs.settings SET last_resort_addresses_per_queue = 2;
SELECT * FROM qs.add_addresses(1::smallint, nonce(), queue(21), sha256('owner 21'), '{}', ARRAY[address('l2'), address('l3')]);
SELECT * FROM qs.add_addresses(1::smallint, nonce(), queue(21), sha256('owner 21'), ARRAY[address('l2')], ARRAY[address('l2')]);
SELECT * FROM qs.add_addresses(1::smallint, nonce(), queue(21), sha256('owner 21'), '{}', ARRAY[address('o1')]);
SELECT * FROM qs.add_addresses(1::smallint, nonce(), queue(21), sha256('owner 21'), '{}', ARRAY[address('l2')]);
UPDATE qs.settings SET addresses_per_queue = 6;
SELECT * FROM qs.add_addresses(1::smallint, nonce(), queue(21), sha256('owner 21'), ARRAY[address('o5')]);
UPDATE qs.settings SET addresses_per_queue = 10000, last_resort_addresses_per_queue = 16;
SELECT counts(21);
-- The table itself keeps them from binding, and the counts from going wrong.
\set VERBOSITY terse
UPDATE qs.addresses SET binding = sha256('x') WHERE last_resort;
UPDATE qs.queues SET last_resort_count = -1 WHERE queue_id = queue(21);

-- Revoking: the owner's own addresses, all of them or none, each once.
CREATE FUNCTION revoke(n integer, names text, owner text DEFAULT NULL) RETURNS text LANGUAGE sql AS $$
    SELECT outcome FROM qs.revoke_addresses(1::smallint, nonce(), queue(n), sha256(coalesce(owner, 'owner ' || n)::bytea),
        (SELECT coalesce(array_agg(address(name)), '{}') FROM unnest(string_to_array(names, ' ')) AS name));
$$;
SELECT * FROM qs.revoke_addresses(1::smallint, 'r1', queue(21), sha256('owner 21'), '{}');
SELECT * FROM qs.revoke_addresses(1::smallint, 'r1', queue(21), sha256('owner 21'), ARRAY[address('o1')]);
SELECT revoke(21, 'o1', 'stranger'), revoke(22, 'o1'), revoke(21, 'o1 p1'), revoke(21, 'o1 nobody');
SELECT deliver('g', 'o1 o2 p1', '{1,1,1}', '{still}');
SELECT revoke(21, 'o1 l1 o1'), counts(21);
SELECT deliver('g', 'o1 o2 l1', '{1,1,1}', '{revoked}');
SELECT revoke(21, 'o1');
-- An address that is revoked may be registered again, by anyone, and is bound to nothing.
SELECT * FROM qs.add_addresses(1::smallint, nonce(), queue(22), sha256('owner 22'), ARRAY[address('o1')]);
SELECT deliver('other', 'o1', '{1}', '{x}');

-- A new HPKE key: the next message starts a new chain. A new owner key: the old one is nobody's.
SELECT seq, chain, chain_index, header FROM messages(22);
SELECT * FROM qs.rotate_keys(1::smallint, 'k1', queue(22), sha256('owner 22'), NULL, hpke_key());
SELECT * FROM qs.rotate_keys(1::smallint, 'k1', queue(22), sha256('owner 22'), NULL, hpke_key());
SELECT deliver('other', 'o1', '{1}', '{x}'), deliver('other', 'o1', '{1}', '{x}');
SELECT * FROM qs.rotate_keys(1::smallint, nonce(), queue(22), sha256('stranger'), sha256('stranger'), NULL);
SELECT * FROM qs.rotate_keys(1::smallint, nonce(), queue(22), sha256('owner 22'), sha256('new owner'), NULL);
SELECT revoke(22, 'p1'), revoke(22, 'p1', 'new owner');
SELECT deliver('other', 'o1', '{1}', '{x}');
SELECT seq, chain, chain_index, header FROM messages(22);

-- Deleting: nothing of the queue is left but addresses nobody named, which go when they are used.
CREATE FUNCTION known(names text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(name, ' ' ORDER BY name) FROM unnest(string_to_array(names, ' ')) AS name
     WHERE EXISTS (SELECT FROM postern.seal_addresses(ARRAY[address(name)], queue(21)) n JOIN qs.addresses a USING (lookup));
$$;
SELECT known('l2 o1 o2 o3 o4');
SELECT * FROM qs.delete_queue(1::smallint, nonce(), queue(21), sha256('owner 22'), ARRAY[address('o2')]);
SELECT * FROM qs.delete_queue(1::smallint, 'x1', queue(21), sha256('owner 21'), ARRAY[address('o2'), address('o1'), address('nobody')]);
SELECT * FROM qs.delete_queue(1::smallint, 'x1', queue(21), sha256('owner 21'), '{}');
SELECT (SELECT count(*) FROM qs.queues WHERE queue_id = queue(21)) AS queues, (SELECT count(*) FROM messages(21)) AS messages,
       known('l2 o1 o2 o3 o4');
SELECT deliver('g', 'o2 o3 o4 l2', '{1,1,1,1}', '{x}');
SELECT known('l2 o1 o2 o3 o4');
SELECT deliver('other', 'o1', '{1}', '{x}');
SELECT * FROM qs.delete_queue(1::smallint, nonce(), queue(21), sha256('owner 21'), '{}');
